"""Files for what stands in front of an application and for what starts it.

``deployment`` reads what they have to agree about with the application, ``locations`` turns URL
rules into what fronts match, ``programs`` are the processes. ``rendering`` fills in one template
for each kind, ``writing`` puts files in their place, and ``checking`` reads deployed ones.
"""

from __future__ import annotations
