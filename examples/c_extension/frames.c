/* An extension that makes arrays in both ways: in the heap, where other processes find them by a
 * handle, and over frames of a camera's driver, which it must give back one by one.
 *
 *     python setup.py build_ext --inplace && python use.py
 */
#include <sharena/sharena_py.h>

#include <stdlib.h>

#define WIDTH 640
#define HEIGHT 480

/* ---- the driver, as it might be: a frame is lent, and must come back ---- */

static int lent;

static unsigned char *driver_lend(void)
{
    unsigned char *frame = malloc(WIDTH * HEIGHT);
    if (frame != NULL) {
        __atomic_add_fetch(&lent, 1, __ATOMIC_RELAXED);
        for (int i = 0; i < WIDTH * HEIGHT; i++)
            frame[i] = (unsigned char)(i % WIDTH);
    }
    return frame;
}

static void driver_take_back(unsigned char *frame)
{
    free(frame);
    __atomic_sub_fetch(&lent, 1, __ATOMIC_RELAXED);
}

/* ---- arrays ---- */

/* After the last view, without the GIL: Python must not be called here. */
static void give_back(void *frame, void *unused)
{
    (void)unused;
    driver_take_back(frame);
}

static PyObject *grab(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    static const Py_ssize_t shape[] = {HEIGHT, WIDTH};
    unsigned char *frame = driver_lend();
    if (frame == NULL)
        return PyErr_NoMemory();
    PyObject *dtype = PyUnicode_FromString("u1");
    PyObject *array = NULL;
    if (dtype != NULL)
        array = sharena_array_wrap(frame, dtype, 2, shape, NULL, 0, give_back, NULL, NULL);
    Py_XDECREF(dtype);
    if (array == NULL) /* then nothing was called: the frame is still ours */
        driver_take_back(frame);
    return array;
}

static PyObject *count_lent(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    return PyLong_FromLong(__atomic_load_n(&lent, __ATOMIC_RELAXED));
}

/* The mean of each column, as a new array in the heap. */
static PyObject *profile(PyObject *module, PyObject *frame)
{
    (void)module;
    static const Py_ssize_t width = WIDTH;
    Py_buffer in, out;
    if (PyObject_GetBuffer(frame, &in, PyBUF_C_CONTIGUOUS) < 0)
        return NULL;
    PyObject *array = NULL;
    if (in.len != WIDTH * HEIGHT)
        PyErr_SetString(PyExc_ValueError, "frame: not a whole one");
    else
        array = sharena_array_new(NULL, NULL, 1, &width, SHARENA_PY_ZERO);
    if (array != NULL && PyObject_GetBuffer(array, &out, PyBUF_C_CONTIGUOUS) < 0)
        Py_CLEAR(array);
    if (array != NULL) {
        const unsigned char *pixels = in.buf;
        double *means = out.buf;
        Py_BEGIN_ALLOW_THREADS
        for (int i = 0; i < WIDTH * HEIGHT; i++)
            means[i % WIDTH] += (double)pixels[i] / HEIGHT;
        Py_END_ALLOW_THREADS
        PyBuffer_Release(&out);
    }
    PyBuffer_Release(&in);
    return array;
}

/* ---- handles ---- */

static PyObject *pack(PyObject *module, PyObject *array)
{
    (void)module;
    return sharena_array_handle(array, 1);
}

static PyObject *unpack(PyObject *module, PyObject *handle)
{
    (void)module;
    return sharena_array_attach(handle);
}

static PyObject *is_shared(PyObject *module, PyObject *object)
{
    (void)module;
    int shared = sharena_array_is_shared(object);
    return shared < 0 ? NULL : PyBool_FromLong(shared);
}

/* ---- the module ---- */

static PyMethodDef functions[] = {
    {"grab", grab, METH_NOARGS, "A frame of the camera, without a copy."},
    {"lent", count_lent, METH_NOARGS, "How many frames the driver has not got back."},
    {"profile", profile, METH_O, "The mean of each column, in shared memory."},
    {"pack", pack, METH_O, "Handle bytes of an array, for one load."},
    {"unpack", unpack, METH_O, "The array that handle bytes name."},
    {"is_shared", is_shared, METH_O, "Whether it lies in shared memory."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "frames",
    .m_size = -1,
    .m_methods = functions,
};

PyMODINIT_FUNC PyInit_frames(void)
{
    if (import_sharena() < 0)
        return NULL;
    return PyModule_Create(&definition);
}
