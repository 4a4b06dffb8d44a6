"""The built-in gang back end: which node each worker gets, for all workers or for none. Pure."""

from goodput_operator.gang.book import Book
from goodput_operator.gang.constraints import Constraints, read_constraints
from goodput_operator.gang.placement import GangRequest, NoRoom, Placement

__all__ = ["Book", "Constraints", "GangRequest", "NoRoom", "Placement", "read_constraints"]
