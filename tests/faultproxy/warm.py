"""Imported by the fork server alone: everything that an operator will need."""

import gc

import kopf._core.engines.peering
import kopf._core.reactor.running
import kubernetes.aio.client
import yaml

import goodput_operator.__main__
import goodput_operator.controller.runtime
import tests.faultproxy.operators

__all__ = ["goodput_operator", "kopf", "kubernetes", "tests", "yaml"]

gc.collect()
gc.freeze()  # a forked process then copies no page only because its collector looked at it
