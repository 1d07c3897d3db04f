"""What frames.c gives: frames of a camera's driver, and arrays that cross processes."""

import multiprocessing

import frames


def double(handle):
    """In another process: the handle is all it gets."""
    profile = frames.unpack(handle)
    profile *= 2


if __name__ == "__main__":
    frame = frames.grab()
    left = frame[:, :320]
    del frame
    print(left.shape, "frames lent:", frames.lent())
    del left
    print("frames lent:", frames.lent())

    profile = frames.profile(frames.grab())
    print("shared:", frames.is_shared(profile), "last mean:", round(profile[255]))
    child = multiprocessing.get_context("spawn").Process(
        target=double, args=(frames.pack(profile),)
    )
    child.start()
    child.join()
    print("doubled by another process:", round(profile[255]))
