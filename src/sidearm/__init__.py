"""Sidearm: the production half of a Flask application."""

from __future__ import annotations

from .events import EventStream as EventStream
from .events import event_stream as event_stream
from .events import publish as publish
from .events import publish_now as publish_now
from .events import stream_position as stream_position
from .exceptions import EventTooLarge as EventTooLarge
from .exceptions import InvalidChannel as InvalidChannel
from .exceptions import InvalidField as InvalidField
from .exceptions import OutsideTask as OutsideTask
from .exceptions import SettingError as SettingError
from .exceptions import SidearmError as SidearmError
from .exceptions import TaskSettled as TaskSettled
from .extension import Sidearm as Sidearm
from .tasks import after_commit as after_commit
from .tasks import after_rollback as after_rollback
from .tasks import commit_on as commit_on
from .tasks import current_task as current_task
