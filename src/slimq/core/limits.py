"""Every bound of slimq, each with its reason. Settings live in `config.py`."""

from __future__ import annotations

KIB = 1024
MIB = 1024 * KIB

# --- HTTP in ---------------------------------------------------------------
REQUEST_LINE_MAX = 8 * KIB  # the longest line common proxies pass on
HEAD_MAX = 16 * KIB  # request line and headers together; what nginx and Node allow
HEADER_COUNT_MAX = 64  # browsers send about 20
HEADER_TIMEOUT_S = 10.0  # a head that takes longer is a slow-header attack
BODY_IDLE_TIMEOUT_S = 60.0  # rolling: a body may be long, but not silent
KEEP_ALIVE_S = 75  # longer than the 60 s that common proxies keep a connection
CONNECTIONS_MAX = 10_000  # callers at a time: each may hold a head of 16 KiB in memory
FILES_RESERVED = 512  # descriptors that callers never get, or half: journal, store, handlers
LINGER_S = 2.0  # how long a refused upload is read on, so that its answer is not lost
WORKERS_MAX = 64  # nodes behind one port: each is a process, and a line in every node's list
JSON_BODY_MAX = 16 * MIB  # JSON is parsed in memory: POST /jobs and PUT /handlers
JSON_JOBS_MAX = 10_000  # jobs of one POST /jobs: each costs the loop about 5 µs
JSON_BODIES_MAX = 128 * MIB  # and all that arrive at a time together

# --- lines -----------------------------------------------------------------
LINE_MAX = 1 * MIB  # one job's data: what a handler may be asked to hold at once
LIST_IDS_MAX = 1000  # above this many lines an answer names first and last id only
ALL_IDS_MAX = 1_000_000  # and ids=all answers at most so many: 24 MB, a quarter of a second
NAME_MAX = 128  # client or jobtype; the type is stored with every job

# --- journal ---------------------------------------------------------------
BODY_IN_MEMORY_MAX = 16 * MIB  # a body above this is spooled to a file while it arrives
BODIES_IN_MEMORY_MAX = 64 * MIB  # and so is any body while all of them together exceed this
SEGMENT_BYTES = 64 * MIB  # a segment is deleted as a whole: small enough to free space soon
LAY_OUT_MAX = 16 * MIB  # room behind the end of a journal, for a burst; as much may be wasted
LAY_OUT_MIN = 64 * KIB  # one write of zeros for some hundred lone lines
LAY_OUT_STEP = 512 * KIB  # of one step: who comes meanwhile waits some ms for it
LAY_OUT_AFTER_MS = 2.0  # of silence, so that it happens between bursts, not in one
RESERVE_BYTES = 16 * MIB  # ballast: lets the store finish and purge when the disk is full
GROUP_BYTES_MAX = 64 * MIB  # one group commit: bounds the time of one fsync
GROUP_RECORDS_MAX = 1024  # and, but for one turn of the loop, its number of records
BUFFERED_FSYNC_S = 0.05  # durability=buffered: the promised window at a power cut
STALL_MS = 5_000  # a disk that takes longer stands still: callers give up after 10 to 30 s
PROBE_INTERVAL_S = 1.0  # how often a failed or full journal is tried again

# --- ingest and store ------------------------------------------------------
INGEST_JOBS_MAX = 10_000  # jobs in one transaction: keeps a write lock under ~50 ms
CLAIM_MAX = 10_000  # jobs of one claim
SCAN_TYPES_MAX = 1_000  # types looked at in one page of the ready scan
PURGE_JOBS_MAX = 1_000  # jobs deleted in one transaction
FREE_JOBS_MAX = 1_000  # abandoned jobs freed in one transaction
BULK_JOBS_MAX = 1_000  # jobs changed in one transaction of a cancel or retry by filter
LIST_MAX = 1_000  # jobs or types in one page of a list
INVOKE_LINES_MAX = 1_000  # jobs of one try of a handler: a look, not a load
INVOKES_MAX = 8  # tries at a time: they pass the slots by
READY_MAX = 10_000  # ready jobs of a type that are counted for a scaler; milliseconds of work
STORE_PATH_MAX = 500  # bytes: SQLite takes 512, and appends its own names
QUERY_SECONDS_MAX = 2.0  # a question to the store that takes longer is refused
IDEMPOTENCY_WINDOW_MS = 24 * 3600 * 1000  # the spec's window
IDEMPOTENCY_KEY_MAX = 255  # bytes; the longest key that common clients send
PENDING_KEYS_MAX = 1_000_000  # keys accepted but not yet in the store: about 200 MB

# --- leases ----------------------------------------------------------------
LEASE_MS = 30_000  # how long a silent node keeps its jobs
RENEW_MS = 10_000  # two renewals may fail before a lease is lost
LEASE_MARGIN_MS = 5_000  # a run that cannot be renewed is killed this long before its end
SWEEP_MS = 5_000  # how often abandoned jobs are looked for
FORMER_LOOK_MS = 1_000  # how often a node looks for jobs of its earlier boots after a start
FORMER_MS = 5_000  # and for how long: what a killed one asked a server for has ended by then
FORMER_MAX = 16  # earlier boots looked after: of a node killed in a loop, the last ones
CRASHES_MAX = 3  # a job that kills its context or node this often is done with an ERROR

# --- running ---------------------------------------------------------------
BATCH_MAX = 10_000  # jobs in one batch
HTTP_BATCH_MAX = 500  # ids of a batch travel in headers: 500 ids are 11 KiB
CONCURRENCY_MAX = 1_000  # batches at a time; more is no limit: a node has as many slots at most
BATCH_BYTES_MAX = 64 * MIB  # data of one batch; a batch is cut before it
RESULT_MAX = 64 * KIB  # result text kept of one job
ERROR_MAX = 4 * KIB  # error text kept of one run
RUNS_MAX = 100  # attempts of one job whose runs are kept: a job may run for days
OUTPUT_TAIL_MAX = 64 * KIB  # stderr kept of one batch
STDOUT_MAX = 64 * MIB  # stdout of one batch: beyond it the command is killed
RESPONSE_MAX = 1 * MIB  # body of one answer of an http handler, per job of the batch
CHILDREN_MAX = 10_000  # jobs that one job may add by printing them
ANSWER_HEAD_MAX = 64 * KIB  # head of such an answer; what servers send stays under 16 KiB
URL_MAX = 2 * KIB  # longer ones do not get through common proxies and servers
SPLIT_PROBES = 8  # jobs of a died batch tried alone, to tell a bad handler from a bad job
ARGV_MAX = 64  # words of a command
ARGV_BYTES_MAX = 128 * KIB - 1  # all of them; Linux takes no longer single word
KILL_GRACE_S = 1.0  # what a command that timed out gets between SIGTERM and SIGKILL
KILL_WAIT_S = 5.0  # how long a killed process is waited for; the kernel may hold it in I/O
CONNECT_TIMEOUT_MS = 10_000  # TCP and TLS; a host that takes longer is down
HOST_CONNECTIONS = 32  # to one host and port; more would hurt most targets
CONNECT_HEAD_START_S = 0.25  # of one address of a host before the next; RFC 8305
HOST_NAMES_S = 60.0  # how long the addresses of a host are remembered; judged each time anew
HOST_NAMES_MAX = 1_000  # and of how many hosts
RESOLVERS_MAX = 16  # names looked up at a time: slow ones must not hold up the others
IDLE_CONNECTIONS_MAX = 256  # kept alive over all hosts: each is a file descriptor
IDLE_CONNECTION_S = 60.0  # then a kept one is not trusted any more: who is between may forget it
SECRET_MIN = 24  # bytes of a webhook secret; Standard Webhooks 1.0
SECRET_MAX = 64  # and the block of SHA-256: beyond it a key is hashed and no stronger
HANDLER_BODY_MAX = 1 * MIB  # all versions are kept, and all current ones held in memory
FUNCTION_BYTES_MAX = HANDLER_BODY_MAX  # all files of a function, unpacked
FUNCTION_FILES_MAX = 1_000  # each is written when the function is first run on a node
FUNCTION_DEPTH_MAX = 16  # folders within folders; paths stay below what systems take
TIMEOUT_MAX_MS = 24 * 3600 * 1000  # a run that takes longer is a service, not a job
DELAY_MAX_MS = 366 * 24 * 3600 * 1000  # a job deferred by more than a year is a mistake
RETRY_AFTER_MAX_MS = 24 * 3600 * 1000  # a Retry-After beyond a day is clamped

# --- warm contexts ---------------------------------------------------------
CONTEXTS_MAX = 64  # on one node, at work or idle: each holds five descriptors
CONTEXT_START_S = 60.0  # imports and `before`: some load models, none should take longer
CONTEXT_JOBS_MAX = 1_000_000  # then a fresh one: whatever it leaks ends
CONTEXT_AGE_S = 3_600.0  # and after so long
CONTEXT_GROW_S = 0.02  # a third of a cold start: a busy context may be free sooner
CONTEXT_HOLD_S = 1.0  # one that did not start is not tried again for so long
CONTEXT_BYTES = 8 * MIB  # what the smallest context takes at least
FUNCTION_MEMORY_MIN = 32 * MIB  # a bare interpreter takes a third of it
FUNCTION_MEMORY_MAX = 64 * 1024 * MIB  # a larger machine would be a surprise, a typing error not
FUNCTION_PROCESSES_MAX = 4_096  # processes and threads of one context
FUNCTION_CPUS_MIN = 0.05  # with less, an interpreter would take seconds to start
FUNCTION_CPUS_MAX = 1_024  # a larger machine would be a surprise
FUNCTION_TMP_MAX = 64 * 1024 * MIB  # it is memory, too
ANSWER_MAX = 64 * MIB  # what the jobs of one batch say, all together
ANSWER_KEPT_MAX = 4 * MIB  # a context with a larger answer behind it is not kept
LOG_MAX = 64 * MIB  # what a batch prints: beyond it the context is killed
REQUIREMENTS_MAX = 100  # of one function; each may bring many packages
PACKAGES_BYTES_MAX = 4 * 1024 * MIB  # what these take: as much as the largest frameworks
BUILD_TIMEOUT_S = 900.0  # large packages on a slow line
BUILD_HOLD_S = 60.0  # a build that failed is not tried again for so long, but by a deploy
BUILD_LINES_SHOWN = 12  # last words of a builder: its reason, and what led to it
BUILDS_MAX = 2  # at a time: they take a disk, a line and a processor
FUNCTION_UNUSED_S = 7 * 24 * 3600  # files of a function that nobody ran for so long are deleted

# --- functions: the network -------------------------------------------------
EGRESS_CONNECTIONS_MAX = 64  # of one context at a time: each holds two descriptors and buffers
EGRESS_RESOLVERS = 4  # names looked up at a time: slow ones hold up functions alone

# --- API -------------------------------------------------------------------
WAIT_MAX_S = 60  # GET /jobs/{id}?wait=
WAITERS_MAX = 10_000  # of them at once
LOG_FIELD_MAX = 256  # characters of one value in a log line
LOG_ITEMS_MAX = 20  # items of one list or object in a log line
