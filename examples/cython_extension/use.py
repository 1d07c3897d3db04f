"""What moments.pyx gives."""

import moments

import sharena

a = moments.powers(3, 5)
print(a, "shared:", sharena.is_shared(a))
print("the same memory:", sharena.attach(moments.pack(a)).ctypes.data == a.ctypes.data)

b = moments.scratch(1000)
tail = b[990:]
tail[:] = 1
del b
print("freed:", moments.scratches_freed(), "sum:", tail.sum())
del tail
print("freed:", moments.scratches_freed())
