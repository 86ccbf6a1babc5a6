/* Where Python's tensors lie and how, of a whole list in one call: of small models, asking each one from Python would
 * take longer than their step. torch tells it through DLPack's table of functions for C (dlpack.h, version 1.3), whose
 * addresses Python gives, so that nothing of torch or Python is linked. The caller holds Python's lock.
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

typedef int Tell(void *tensor, Told *told);       /* DLPackDLTensorFromPyObjectNoSync; not 0 where it raises */
typedef void *Get(void *list, ptrdiff_t index);   /* PyList_GetItem */

/* Sizes and strides are small, and the numbers they are multiplied with are not: no two ways give one sum. */
#define SIZE 0x9e3779b97f4a7c15u
#define STRIDE 0xc2b2ae3d27d4eb4fu
#define NEXT 0xd6e8feb86659fd93u

/* Fill three rows of `count` numbers: which object it is, where it lies, and a number for how: two that differ in
 * shape, strides, precision or device have different ones. All are 0 of None but the first; what has no entries lies
 * at 1. Returns how many were looked at, which is fewer than all where one is no tensor with memory of its own. */
int64_t rotational_look(Tell *tell, Get *get, void *list, int64_t count, void *none, int64_t *found) {
    for (int64_t i = 0; i < count; i++) {
        void *object = get(list, i);
        int64_t address = 0, how = 0;
        if (object != none) {
            Told told;
            if (tell(object, &told)) return i;
            int64_t entries = 1;
            uint64_t kind = (uint64_t)told.dims << 32 | (uint64_t)told.code << 24 | (uint64_t)told.bits << 16 | told.width;
            uint64_t sum = ((uint64_t)told.device << 32 | (uint32_t)told.device_index) * SIZE + kind * STRIDE;
            for (int32_t d = 0; d < told.dims; d++) {
                entries *= told.shape[d];
                /* Nobody goes along an axis of one entry. */
                uint64_t stride = told.shape[d] == 1 ? 0 : (uint64_t)told.strides[d];
                sum = sum * NEXT + (uint64_t)told.shape[d] * SIZE + stride * STRIDE;
            }
            address = entries ? (int64_t)(intptr_t)told.data + (int64_t)told.offset : 1;
            if (!address) return i;
            how = (int64_t)(sum << 1 | 1);
        }
        found[i] = (int64_t)(intptr_t)object, found[count + i] = address, found[2 * count + i] = how;
    }
    return count;
}
