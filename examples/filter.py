# filter.py
import numpy as np, sharena
from concurrent.futures import ProcessPoolExecutor

def work(plane):                              # any function; what it writes, everyone sees
    plane *= 0.5
    return sharena.array(plane.max(axis=0))   # results come back without a copy, too

def main():
    stack = sharena.load("stack.npy")         # a plain numpy.ndarray, in shared memory
    with ProcessPoolExecutor() as pool:
        maxima = list(pool.map(work, stack))  # each plane travels as a handle
    np.save("maxima.npy", np.stack(maxima))

if __name__ == "__main__":
    main()
