"""Chapters 1 and 2: the unit of work. ``context`` drives ``task``; ``outcome`` decides."""

from __future__ import annotations

from .actions import after_commit as after_commit
from .actions import after_response as after_response
from .actions import after_rollback as after_rollback
from .actions import commit_on as commit_on
from .claims import Claim as Claim
from .claims import Resource as Resource
from .claims import Transaction as Transaction
from .context import current_task as current_task
from .records import Record as Record
from .task import Task as Task
