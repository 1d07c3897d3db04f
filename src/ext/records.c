/* The records that a Heap's reports are made of: tuples with named, unchangeable fields. */
#include "ext.h"

static PyStructSequence_Field stats_fields[] = {
    {"name", "of the heap, or None"},
    {"uuid", "32 hexadecimal digits"},
    {"limit_bytes", "the most bytes of memory it may take"},
    {"reserve_bytes", "address space for its data"},
    {"retain_bytes", "free memory that may be kept warm"},
    {"committed_bytes", "memory it takes now, data and metadata"},
    {"metadata_bytes", "of these, its own tables"},
    {"live_bytes", "in blocks that somebody holds"},
    {"retained_bytes", "free and kept warm"},
    {"stranded_bytes", "free, but only for the process that owns the slab"},
    {"inflight_bytes", "in blocks that only unspent handles hold"},
    {"blocks", "number of live blocks"},
    {"runs", "of these, large ones"},
    {"slabs", "groups of small blocks"},
    {"abandoned_slabs", "of these, without an owner"},
    {"tickets", "handles in flight"},
    {"names", "named arrays"},
    {"processes", "that use the heap"},
    {"max_processes", "that can use it at once"},
    {"guests", "forked processes that share their parent's slot"},
    {"classes", "a SizeClass for each size of small blocks"},
    {"handle_arrays", "arrays that this process has sent as handles, to any heap"},
    {"handle_bytes", "of array data, the same"},
    {"value_arrays", "arrays that this process has sent by value"},
    {"value_bytes", "of array data, the same"},
    {NULL, NULL},
};

static PyStructSequence_Field class_fields[] = {
    {"size_bytes", "of one block"},
    {"slabs", "of this class"},
    {"blocks", "live"},
    {"capacity", "blocks there is room for in these slabs"},
    {NULL, NULL},
};

static PyStructSequence_Field process_fields[] = {
    {"slot", "its number in the heap"},
    {"pid", "process id"},
    {"started", "when it attached, in seconds since the epoch"},
    {"blocks", "that it holds"},
    {"bytes", "in these"},
    {"guests", "forked processes that share its slot"},
    {"alive", "False: dead, and not cleared up after yet"},
    {"command", "its name"},
    {NULL, NULL},
};

static PyStructSequence_Field ticket_fields[] = {
    {"entry", "its number in the table"},
    {"offset", "of the block"},
    {"number", "which life of the block"},
    {"size_bytes", "of the block"},
    {"made", "when, in seconds since the epoch"},
    {"uses", "loads not made yet"},
    {"exporter", "process id of its maker"},
    {"exporter_alive", "whether that still runs"},
    {NULL, NULL},
};

static PyStructSequence_Field block_fields[] = {
    {"offset", "in the heap"},
    {"size_bytes", "usable"},
    {"holders", "bit mask of slots"},
    {"site", "file:line of its allocation, or ''"},
    {NULL, NULL},
};

static const struct {
    size_t at; /* in the module state */
    PyStructSequence_Desc desc;
} records[] = {
    {offsetof(ext_state, stats_type),
     {"sharena._core.Stats", "What Heap.stats() tells.", stats_fields, 25}},
    {offsetof(ext_state, class_type),
     {"sharena._core.SizeClass", "Small blocks of one size.", class_fields, 4}},
    {offsetof(ext_state, process_type),
     {"sharena._core.Process", "A process that uses a heap.", process_fields, 8}},
    {offsetof(ext_state, ticket_type),
     {"sharena._core.Ticket", "A handle in flight.", ticket_fields, 8}},
    {offsetof(ext_state, block_info_type),
     {"sharena._core.BlockInfo", "A live block.", block_fields, 4}},
};

int ext_records_init(ext_state *st, PyObject *module)
{
    for (size_t i = 0; i < sizeof records / sizeof records[0]; i++) {
        PyStructSequence_Desc desc = records[i].desc;
        PyTypeObject *type = PyStructSequence_NewType(&desc);
        if (type == NULL)
            return -1;
        *(PyTypeObject **)((char *)st + records[i].at) = type;
        if (PyModule_AddType(module, type) < 0)
            return -1;
    }
    return 0;
}
