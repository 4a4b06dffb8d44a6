# One image for both: the operator, and the init container that brings the agent to a worker.

FROM python:3.12-slim AS build
COPY requirements.lock /
# The lock names every package; where it has hashes, pip checks them.
RUN pip install --no-cache-dir --no-compile --no-deps --only-binary=:all: \
    --target /deps --requirement /requirements.lock
COPY operator /app
RUN PYTHONPATH=/app python3 -B -m goodput.agent.build /app /app/agent.pyz \
 && chmod 0755 /app/agent.pyz \
 && python3 -m compileall -qq --invalidation-mode unchecked-hash /app /deps

FROM python:3.12-slim
LABEL org.opencontainers.image.title="goodput-operator" \
      org.opencontainers.image.description="Keeps elastic GPU training jobs productive" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY LICENSE /licenses/LICENSE
COPY --from=build /deps /deps
COPY --from=build /app /app
# The root file system is read-only in the cluster.
ENV PYTHONPATH=/app:/deps \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /app
USER 65532:65532
EXPOSE 8443 8080
ENTRYPOINT ["python3", "-m", "goodput_operator"]
