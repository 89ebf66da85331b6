"""Lets the reference see rooms: in ``medmap`` a verb (``mm.read``) and its room (``medmap.read``) share a name."""

from __future__ import annotations

from typing import Any

import griffe


class RoomsBeforeVerbs(griffe.Extension):
    """Forgets the front door's type-checking imports, so that each shared name means the room."""

    def on_module_members(self, *, mod: griffe.Module, **_: Any) -> None:
        """Called when a module's own members are known, before its submodules are loaded."""
        if mod.path == "medmap":
            for name in [name for name, member in mod.members.items() if member.is_alias]:
                del mod.members[name]
