"""A window that shows frames while they are made: tkinter, which comes with Python, and Pillow.

OpenCV's headless package, used here because it installs everywhere, has no windows; matplotlib's take a tenth of a
second for a frame.
"""

import contextlib

import cv2
from PIL import Image

SCREEN_SHARE = 0.6  # of the screen's width and height that the window takes at most


class Window:
    """A window for frames of one size. Closing it, Esc or q only closes it: `closed` is True from then on.

    All calls come from the thread that made it, on macOS from the main thread.
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
        """Show a frame, uint8 H x W x 3 RGB, made smaller where the screen is small. Does nothing once closed."""
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
        """Close the window; once more does nothing."""
        if not self.closed:
            self.closed = True
            self.root.destroy()


@contextlib.contextmanager
def open_window(shown, title):
    """A `Window` as a context manager; None where `shown` is False, or (one line says so) where there can be none."""
    window = None
    if shown:
        try:
            window = Window(title)
        except ImportError:
            print('show=True: no window, because this Python has no tkinter (Debian and Ubuntu: python3-tk). Going on.')
        except Exception as error:
            # tkinter.TclError, whose class cannot be named where tkinter is absent.
            print(f'show=True: no window, because there is no screen ({error}). Going on without.')
    try:
        yield window
    finally:
        if window:
            window.close()
