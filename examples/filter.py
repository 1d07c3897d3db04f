import numpy as np, sharena
from concurrent.futures import ProcessPoolExecutor

def work(plane):                              # any function of yours
    plane -= plane.min()                      # in place: every process sees it
    return sharena.array(plane.max(axis=0))   # results come back without a copy, too

if __name__ == "__main__":
    noise = np.random.default_rng(1).integers(100, 4096, (38, 1024, 1024), "u2")
    stack = sharena.array(noise)              # a plain numpy.ndarray, in shared memory
    with ProcessPoolExecutor(max_workers=4) as pool:
        maxima = list(pool.map(work, stack))  # each plane travels as a handle
    print(stack.min(), np.max(maxima), np.shape(maxima))
