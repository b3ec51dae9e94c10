"""A window that shows frames as they are made, with tkinter, which comes with Python, and Pillow.

OpenCV's headless package installs everywhere but has no windows; matplotlib's take a tenth of a second per frame.
"""

import contextlib

import cv2
from PIL import Image

SCREEN_SHARE = 0.6  # of the screen's width and height that the window takes at most


class Window:
    """A window for frames of one size. Esc, q or its button close it and stop nothing else; `closed` is then True.

    Call it only from the thread that made it, on macOS from the main thread.
    """

    def __init__(self, title):
        import tkinter

        self.root = tkinter.Tk()
        self.root.title(title)
        self.root.resizable(False, False)
        self.label = tkinter.Label(self.root, borderwidth=0)
        self.label.pack()
        self.picture = None
        self.closed = False
        self.root.protocol('WM_DELETE_WINDOW', self.close)
        for key in ('<Escape>', 'q'):
            self.root.bind(key, lambda _: self.close())

    def show(self, frame):
        """Show a frame, uint8 H x W x 3 RGB, reduced to fit the screen. Does nothing once closed."""
        if self.closed:
            return
        from PIL import ImageTk

        height, width = frame.shape[:2]
        share = min(
            1.0,
            SCREEN_SHARE * self.root.winfo_screenwidth() / width,
            SCREEN_SHARE * self.root.winfo_screenheight() / height,
        )
        size = (max(1, round(width * share)), max(1, round(height * share)))
        if size != (width, height):
            frame = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
        if self.picture is None or (self.picture.width(), self.picture.height()) != size:
            self.picture = ImageTk.PhotoImage(Image.fromarray(frame), master=self.root)
            self.label.configure(image=self.picture)
        else:
            self.picture.paste(Image.fromarray(frame))
        self.root.update()

    def close(self):
        """Close the window. A second call does nothing."""
        if not self.closed:
            self.closed = True
            self.root.destroy()


@contextlib.contextmanager
def open_window(shown, title):
    """A `Window` as a context manager; None if `shown` is False or, with a line that says so, if none can be opened."""
    window = None
    if shown:
        try:
            window = Window(title)
        except ImportError:
            print('show=True: no window, because this Python has no tkinter (Debian and Ubuntu: python3-tk). Going on.')
        except Exception as error:
            # tkinter.TclError, which cannot be named here, since tkinter may be missing.
            print(f'show=True: no window, because there is no screen ({error}). Going on without.')
    try:
        yield window
    finally:
        if window:
            window.close()
