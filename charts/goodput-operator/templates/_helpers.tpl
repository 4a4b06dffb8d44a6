{{/* The name of everything in the operator's namespace: its flags default to this one. */}}
{{- define "goodput.name" -}}
goodput-operator
{{- end }}

{{/* The name of what belongs to no namespace, so that two installations can live side by side. */}}
{{- define "goodput.clusterName" -}}
goodput-operator-{{ .Release.Namespace }}
{{- end }}

{{- define "goodput.serviceAccount" -}}
{{ .Values.serviceAccount.name | default (include "goodput.name" .) }}
{{- end }}

{{- define "goodput.selector" -}}
app.kubernetes.io/name: goodput-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "goodput.labels" -}}
{{ include "goodput.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "goodput.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "goodput.agentImage" -}}
{{- $tag := .Values.agentImage.tag | default .Values.image.tag | default .Chart.AppVersion -}}
{{ .Values.agentImage.repository | default .Values.image.repository }}:{{ $tag }}
{{- end }}

{{/* What the operator does with jobs and their pods, in every namespace that it looks after. */}}
{{- define "goodput.jobRules" -}}
# Watched; deleted when their time to live is over.
- apiGroups: [goodput.training]
  resources: [trainingjobs]
  verbs: [get, list, watch, delete]
# Its whole memory. It never writes a spec.
- apiGroups: [goodput.training]
  resources: [trainingjobs/status]
  verbs: [update]
# Pods are made and removed, never changed.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, create, delete]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
{{- end }}

{{- define "goodput.subjects" -}}
- kind: ServiceAccount
  name: {{ include "goodput.serviceAccount" . }}
  namespace: {{ .Release.Namespace }}
{{- end }}

{{/* How a replica is scraped. A job's series belong to no replica: another leader goes on with
them, so what names the target is replaced by "$1", the empty group. (An empty `replacement` would
say it better, but older Prometheus operators take that for none.) */}}
{{- define "goodput.scrape" -}}
honorLabels: true
metricRelabelings:
{{- range list "instance" "pod" "container" "endpoint" "service" }}
- sourceLabels: [__name__]
  regex: ()goodput_(?:accelerator|unsettled|job)_.+
  targetLabel: {{ . }}
{{- end }}
{{- end }}
