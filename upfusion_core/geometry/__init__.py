"""Cameras and rays: the one place where their conventions live."""

from .cameras import *
from .rays import *
