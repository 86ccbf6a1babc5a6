/* Threads that wait for a step: torch's own where Python could find them, else ours. Those that gradients were worked
 * out on wait for more to do without sleeping, for a millisecond or so; others would have to share a processor with
 * them, and to be woken. A fork takes no threads along, so a child process makes its own.
 */
#include <pthread.h>
#include <unistd.h>

#include "table.h"

static struct {
    pthread_mutex_t turn;                /* who may use the pool */
    pthread_mutex_t lock;                /* what follows */
    pthread_cond_t wake, idle;
    int workers, wanted, running;        /* threads; places still open in this step; places not done with */
    void (*body)(void *);
    void *argument;
} pool = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, PTHREAD_COND_INITIALIZER,
          0, 0, 0, 0, 0};

/* GOMP_parallel and omp_get_thread_num, of OpenMP's runtime. */
typedef void Borrowed(void (*body)(void *), void *argument, unsigned threads, unsigned flags);
typedef int Number(void);
static Borrowed *borrowed;
static Number *number;
static __thread int own; /* number of a thread of ours */

static void renew(void) {
    borrowed = 0; /* its threads have not come along, and it does not know */
    pthread_mutex_init(&pool.turn, 0);
    pthread_mutex_init(&pool.lock, 0);
    pthread_cond_init(&pool.wake, 0);
    pthread_cond_init(&pool.idle, 0);
    pool.workers = pool.wanted = pool.running = 0;
}

static void once(void) { pthread_atfork(0, 0, renew); }

static void *work(void *which) {
    own = (int)(intptr_t)which;
    pthread_mutex_lock(&pool.lock);
    for (;;) {
        while (pool.wanted == 0) pthread_cond_wait(&pool.wake, &pool.lock);
        pool.wanted--;
        pthread_mutex_unlock(&pool.lock);
        pool.body(pool.argument);
        pthread_mutex_lock(&pool.lock);
        if (--pool.running == 0) pthread_cond_signal(&pool.idle);
    }
    return 0;
}

static pthread_once_t ready = PTHREAD_ONCE_INIT;

/* From now on, use these threads. */
void rotational_borrow(Borrowed *parallel, Number *which) {
    pthread_once(&ready, once);
    borrowed = which ? parallel : 0;
    number = which;
}

int rotational_thread(void) { return borrowed ? number() : own; }

void rotational_parallel(void (*body)(void *), void *argument, int threads) {
    pthread_once(&ready, once);
    if (threads > 1 && borrowed) {
        borrowed(body, argument, (unsigned)threads, 0);
        return;
    }
    /* A second optimizer that steps at the same time does so on its own thread, rather than wait for the first. */
    if (threads < 2 || pthread_mutex_trylock(&pool.turn) != 0) {
        body(argument);
        return;
    }
    pthread_mutex_lock(&pool.lock);
    while (pool.workers < threads - 1) {
        pthread_t thread;
        if (pthread_create(&thread, 0, work, (void *)(intptr_t)(pool.workers + 1)) != 0) break;
        pthread_detach(thread);
        pool.workers++;
    }
    pool.body = body;
    pool.argument = argument;
    pool.wanted = pool.running = pool.workers < threads - 1 ? pool.workers : threads - 1;
    pthread_cond_broadcast(&pool.wake);
    pthread_mutex_unlock(&pool.lock);
    body(argument);
    pthread_mutex_lock(&pool.lock);
    /* Who has not begun by now would find nothing left to do. */
    pool.running -= pool.wanted;
    pool.wanted = 0;
    while (pool.running > 0) pthread_cond_wait(&pool.idle, &pool.lock);
    pthread_mutex_unlock(&pool.lock);
    pthread_mutex_unlock(&pool.turn);
}
