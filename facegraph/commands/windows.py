"""A window for pictures, where this machine has a display. OpenCV here is built without."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

from PIL import Image

from facegraph.types import ByteArray

if TYPE_CHECKING:
    import tkinter as tk

TURN_S = 0.01
"""Between two looks at what the person did."""

SCREEN_PART = 0.9
"""A picture takes so much of the screen's sides at most; the rest is frames and bars."""


class Window(Protocol):
    def show(self, rgb: ByteArray, seconds: float) -> bool:
        """Shows (h, w, 3) uint8 pixels for that long, or until a key is pressed.

        False once the person closed the window: with q, Escape or its button.
        """
        ...

    def close(self) -> None: ...


def open_window(title: str) -> Window | None:
    """None where there is no display, or this Python has no Tk."""
    try:
        import tkinter as tk
    except ImportError:
        return None
    try:
        root = tk.Tk()
    except tk.TclError:
        return None
    return TkWindow(root, title)


class TkWindow:
    """A window of Tk, the toolkit that comes with Python."""

    def __init__(self, root: tk.Tk, title: str) -> None:
        import tkinter as tk

        self._root = root
        self._open = True
        self._go_on = False
        root.title(title)
        self._label = tk.Label(root, borderwidth=0)
        self._label.pack()
        root.protocol("WM_DELETE_WINDOW", self._leave)
        root.bind("<Key>", lambda _: self._next())
        for key in ("<Key-q>", "<Escape>"):
            root.bind(key, lambda _: self._leave())

    def show(self, rgb: ByteArray, seconds: float) -> bool:
        """As :meth:`Window.show`; larger pictures are shrunk to the screen."""
        from PIL import ImageTk

        picture = Image.fromarray(rgb)
        screen = self._root.winfo_screenwidth(), self._root.winfo_screenheight()
        picture.thumbnail((int(screen[0] * SCREEN_PART), int(screen[1] * SCREEN_PART)))
        self._shown = ImageTk.PhotoImage(picture, master=self._root)
        self._label.configure(image=self._shown)
        until = time.monotonic() + seconds
        self._go_on = False
        while True:
            self._root.update()
            if not self._open or self._go_on or time.monotonic() >= until:
                return self._open
            time.sleep(TURN_S)

    def close(self) -> None:
        self._root.destroy()

    def _next(self) -> None:
        self._go_on = True

    def _leave(self) -> None:
        self._open = False
