/* Memory and assertions of one's own. */
#include <stddef.h>
#ifdef __cplusplus
extern "C" {
#endif
void *user_alloc(size_t size);
void user_free(void *memory);
void user_assert(int holds);
#ifdef __cplusplus
}
#endif
#define NETKIT_MALLOC(size) user_alloc(size)
#define NETKIT_FREE(memory) user_free(memory)
#define NETKIT_ASSERT(cond) user_assert((cond) ? 1 : 0)
#define NETKIT_IMPLEMENTATION
#include "netkit.h"
