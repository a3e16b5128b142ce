"""What parent and workers say to each other, and where: the one thing both sides know."""

from .confinement import *
from .frames import *
from .layout import *
from .plain import *
from .reports import *
from .settings import *
from .snapshot import *
