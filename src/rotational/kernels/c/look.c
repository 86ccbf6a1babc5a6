/* Where Python's tensors lie and how, of many in one call: of small models, asking each one from Python would take
 * longer than their step. torch tells it through DLPack's table of functions for C (dlpack.h, version 1.3), whose
 * addresses Python gives with its own, so that nothing of torch or Python is linked. The caller holds Python's lock.
 */
#include <stddef.h>

#include "table.h"

/* DLTensor of dlpack.h. */
typedef struct {
    char *data;
    int32_t device, device_index;
    int32_t dims;
    uint8_t code, bits; /* of one entry: kind of number, and its width */
    uint16_t width;
    const int64_t *shape, *strides;
    uint64_t offset;
} Told;

typedef int Tell(void *tensor, Told *told);     /* DLPackDLTensorFromPyObjectNoSync; not 0 where it raises */
typedef void *Get(void *list, ptrdiff_t index); /* PyList_GetItem */
typedef int Next(void *dict, ptrdiff_t *position, void **key, void **value); /* PyDict_Next; 0 of what is no dict */

typedef void *Attribute(void *object, void *name); /* PyObject_GetAttr; NULL where it raises */
typedef int Put(void *list, ptrdiff_t index, void *object); /* PyList_SetItem, which takes the object over */

typedef struct {
    Tell *tell;
    Get *get;
    Next *next;
    Attribute *attribute;
    Put *put;
    void *none;
} Python;

/* Sizes and strides are small, and the numbers they are multiplied with are not: no two ways give one sum. */
#define SIZE 0x9e3779b97f4a7c15u
#define STRIDE 0xc2b2ae3d27d4eb4fu
#define NEXT 0xd6e8feb86659fd93u

/* Where one lies, and a number for how: two that differ in shape, strides, precision or device have different ones. Both
 * are 0 of None; what has no entries lies at 1. Returns 0 where it is no tensor with memory of its own. */
static int look(const Python *python, void *object, int64_t *address, int64_t *how) {
    *address = *how = 0;
    if (object == python->none) return 1;
    Told told;
    if (python->tell(object, &told)) return 0;
    int64_t entries = 1;
    uint64_t kind = (uint64_t)told.dims << 32 | (uint64_t)told.code << 24 | (uint64_t)told.bits << 16 | told.width;
    uint64_t sum = ((uint64_t)told.device << 32 | (uint32_t)told.device_index) * SIZE + kind * STRIDE;
    for (int32_t d = 0; d < told.dims; d++) {
        entries *= told.shape[d];
        /* Nobody goes along an axis of one entry. */
        uint64_t stride = told.shape[d] == 1 ? 0 : (uint64_t)told.strides[d];
        sum = sum * NEXT + (uint64_t)told.shape[d] * SIZE + stride * STRIDE;
    }
    *address = entries ? (int64_t)(intptr_t)told.data + (int64_t)told.offset : 1;
    *how = (int64_t)(sum << 1 | 1);
    return *address != 0;
}

/* Fill three rows of `count` numbers: which object it is, where it lies, and how. Returns how many were looked at, which
 * is fewer than all where one is no tensor with memory of its own. */
int64_t rotational_look(const Python *python, void *list, int64_t count, int64_t *found) {
    for (int64_t i = 0; i < count; i++) {
        void *object = python->get(list, i);
        if (!look(python, object, found + count + i, found + 2 * count + i)) return i;
        found[i] = (int64_t)(intptr_t)object;
    }
    return count;
}

/* What each of these objects has by this name goes into `list`, and where it lies into `places`. Returns 2 where all lie in
 * these ways, 1 where those that are not None do, else 0; -1 where something raised. */
int rotational_attributes(const Python *python, void *objects, void *name, int64_t count, const int64_t *ways, void *list,
                          int64_t *places) {
    int found = 2;
    for (int64_t i = 0; i < count; i++) {
        void *value = python->attribute(python->get(objects, i), name);
        int64_t how;
        if (!value || python->put(list, i, value) || !look(python, value, places + i, &how)) return -1;
        if (how == ways[i]) continue;
        if (value != python->none) found = 0;
        else if (found) found = 1;
    }
    return found;
}

#define LINES 6 /* of the cache that what torch says of a tensor lies in, */
#define SOON 8  /* and how many tensors before */

typedef struct {
    const Python *python;
    const int64_t *found, *keys; /* three rows of `count` numbers, as above; and objects by themselves */
    const int64_t *lines;        /* LINES for each tensor, or NULL */
    int64_t count, key_count, next, next_key;
} Known;

/* Whether the next one that is known is this. After a backward pass nothing of it is in the caches: some time before it is
 * needed it is fetched from where it was. */
static int is_next(Known *known, void *object) {
    int64_t i = known->next++, count = known->count, address, how;
    if (i >= count) return 0;
    const int64_t *found = known->found + i;
    if (known->lines && i + SOON < count)
        for (int k = 0; k < LINES; k++) __builtin_prefetch((const void *)(intptr_t)known->lines[(i + SOON) * LINES + k]);
    if (found[0] != (int64_t)(intptr_t)object) return 0;
    return look(known->python, object, &address, &how) && found[count] == address && found[2 * count] == how;
}

static int is_next_key(Known *known, void *object) {
    int64_t i = known->next_key++;
    return i < known->key_count && known->keys[i] == (int64_t)(intptr_t)object;
}

/* Whether the items of these lists (`lists` of them, which begin at `starts`) and then the values of the dicts in
 * `states` are all that is known, object by object, each where it was and as it was; and the keys of `states`, each
 * followed by those of its dict, the keys that are. */
int rotational_same(const Python *python, void *groups, const int64_t *starts, int64_t lists, void *states,
                    const int64_t *keys, int64_t key_count, const int64_t *found, int64_t count, const int64_t *lines) {
    Known known = {python, found, keys, lines, count, key_count, 0, 0};
    for (int64_t k = 0; k < lists; k++) {
        void *list = python->get(groups, k);
        for (int64_t i = 0; i < starts[k + 1] - starts[k]; i++)
            if (!is_next(&known, python->get(list, i))) return 0;
    }
    void *owner, *state, *name, *value;
    for (ptrdiff_t at = 0; python->next(states, &at, &owner, &state);) {
        if (!is_next_key(&known, owner)) return 0;
        for (ptrdiff_t in = 0; python->next(state, &in, &name, &value);)
            if (!is_next_key(&known, name) || !is_next(&known, value)) return 0;
    }
    return known.next == count && known.next_key == key_count;
}
