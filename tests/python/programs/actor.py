"""A process that the state machine orders about: actor.py SOCKET.

It connects to the driver's socket, says who it is, and obeys.  A forked child connects
anew and keeps every array of its parent.  No array crosses unless the driver hands over
the bytes of a handle, or a name.
"""

import gc
import hashlib
import os
import sys
from multiprocessing.connection import Client

import sharena

ADDRESS = sys.argv[1]


class Actor:
    def __init__(self):
        self.arrays = {}
        self.connection = None

    def connect(self):
        self.connection = Client(ADDRESS)
        self.connection.send(os.getpid())

    def serve(self):
        while True:
            try:
                order, *arguments = self.connection.recv()
            except EOFError:  # the driver is gone
                os._exit(1)
            try:
                answer = getattr(self, order)(*arguments)
            except (sharena.StaleHandleError, KeyError) as error:
                answer = type(error).__name__
            self.connection.send(answer)

    def allocate(self, key, count, value):
        self.arrays[key] = sharena.full(count, value)

    def view(self, key, other, start):
        self.arrays[other] = self.arrays[key][start:]

    def read(self, key):
        return hashlib.blake2b(self.arrays[key]).hexdigest()

    def write(self, key, value):
        self.arrays[key][...] = value

    def drop(self, key):
        del self.arrays[key]
        gc.collect()
        # A private small block stays at hand for this process until it counts its blocks.
        sharena.Heap.default().stats()

    def export(self, key, uses):
        return sharena.handle(self.arrays[key], uses=uses)

    def load(self, key, data):
        self.arrays[key] = sharena.attach(data)

    def set_name(self, name, key):
        sharena.Heap.default()[name] = self.arrays[key]

    def get_name(self, name, key):
        self.arrays[key] = sharena.Heap.default()[name]

    def remove_name(self, name):
        del sharena.Heap.default()[name]

    def fork(self):
        if os.fork() == 0:
            self.connection.close()
            self.connect()
            self.serve()

    def leave(self):
        """Exit as a program does, with all arrays still there."""
        self.connection.send(None)
        sys.exit()


if __name__ == "__main__":
    actor = Actor()
    actor.connect()
    actor.serve()
