/*
 * libckpt: model checkpoints for every trainer that can call C.
 *
 * What Keras' ModelCheckpoint is to Python: it decides when to save, where, what is best and what to keep, and writes
 * every file that Keras itself loads (.keras, .weights.h5, .weights.json, .h5), and .safetensors for everyone else.
 *
 *   ckpt_on_epoch_end(c, epoch, logs, n);
 *   if (ckpt_should_save(c))
 *     ckpt_save(c, model);
 *
 * The rules, for every function:
 *
 * - Results. What can fail returns a ckpt_status and gives its result through a pointer, which is untouched on
 *   failure. ckpt_last_error() is the calling thread's message: what failed, on what, what to do.
 * - Arguments. NULL where a pointer is required, text that is not UTF-8, a number that an enum does not have:
 *   CKPT_E_INVALID_ARGUMENT, and the message names the argument. Free functions accept NULL.
 * - Ownership. What a _new or _open function makes, its _free ends, once. Strings and arrays that are passed in are
 *   copied; a tensor's buffer is borrowed. Pointers that come out belong to the library; each says how long they live.
 * - Threads. Sessions and readers may be used from any thread; options and models by one thread at a time.
 *   No thread of the library outlives a call, unless saves in the background are asked for.
 * - Callbacks may come from any thread, one at a time, without a lock of the session held; they must not throw,
 *   longjmp, or free their session.
 * - Counting. Epochs and batches count from 0 here, and from 1 in file names, as in Keras.
 * - Nothing is printed unless asked for, no panic or exception crosses this boundary, and enums and structs are
 *   frozen: more data gets a new function.
 *
 * This file is generated (make header): change the doc comments of src/ffi instead.
 */

#ifndef CKPT_H
#define CKPT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/**
 * The version of this header: major << 16 | minor << 8 | patch.
 */
#define CKPT_VERSION 256

/**
 * Value of save_freq: at the end of every epoch.
 */
#define CKPT_SAVE_FREQ_EPOCH 0

/**
 * Value of save_freq: neither by batches nor at the end of epochs. What makes a save due then is
 * ckpt_options_set_save_every_secs(), _save_on_signal(), _overhead_budget() or _mtbf().
 */
#define CKPT_SAVE_FREQ_NEVER UINT64_MAX

/**
 * What a call came to. The numbers never change; later versions may add some.
 */
typedef enum ckpt_status {
  /**
   * It worked.
   */
  CKPT_OK = 0,
  /**
   * An argument is NULL, not UTF-8, out of range, or makes no sense; the message names it.
   */
  CKPT_E_INVALID_ARGUMENT = 1,
  /**
   * The file path's template: syntax, unknown or missing key.
   */
  CKPT_E_TEMPLATE = 2,
  /**
   * The operating system refused: see ckpt_last_os_error().
   */
  CKPT_E_IO = 3,
  /**
   * The disk or the quota is full (ENOSPC, EDQUOT).
   */
  CKPT_E_NO_SPACE = 4,
  /**
   * Not a checkpoint, damaged, or made to do harm.
   */
  CKPT_E_FORMAT = 5,
  /**
   * There is no such file, tensor or value.
   */
  CKPT_E_NOT_FOUND = 6,
  /**
   * A tensor's name, dtype or shape is not what was expected.
   */
  CKPT_E_MISMATCH = 7,
  /**
   * Not now: wrong order of calls, or busy.
   */
  CKPT_E_STATE = 8,
  /**
   * Not something that this version can do.
   */
  CKPT_E_UNSUPPORTED = 9,
  /**
   * The caller cancelled it.
   */
  CKPT_E_CANCELLED = 10,
  /**
   * A bug in this library (a panic, caught); the handle it happened on is best freed.
   */
  CKPT_E_INTERNAL = 11,
} ckpt_status;

/**
 * How much a log line matters.
 */
typedef enum ckpt_log_level {
  /**
   * Something failed that no call reports.
   */
  CKPT_LOG_ERROR = 0,
  /**
   * Something is not as expected, and was dealt with.
   */
  CKPT_LOG_WARN = 1,
  /**
   * What was done: Keras' lines under verbose 1 are of this level.
   */
  CKPT_LOG_INFO = 2,
  /**
   * How it was done.
   */
  CKPT_LOG_DEBUG = 3,
} ckpt_log_level;

/**
 * Where a fence stands.
 */
typedef enum ckpt_fence_at {
  /**
   * A save begins: what its tensors hold now is what it has to write.
   */
  CKPT_FENCE_SAVE_BEGIN = 0,
  /**
   * It has fetched all of them, or will fetch no more. Its file does not have its name yet.
   */
  CKPT_FENCE_SAVE_END = 1,
  /**
   * A load begins.
   */
  CKPT_FENCE_LOAD_BEGIN = 2,
  /**
   * It has put all of them, or will put no more.
   */
  CKPT_FENCE_LOAD_END = 3,
} ckpt_fence_at;

/**
 * The type of an element. Enum arguments enter as plain integers; a number that is none of them is refused.
 */
typedef enum ckpt_dtype {
  /**
   * float, IEEE single
   */
  CKPT_DTYPE_F32 = 0,
  /**
   * double, IEEE double
   */
  CKPT_DTYPE_F64 = 1,
  /**
   * IEEE half
   */
  CKPT_DTYPE_F16 = 2,
  /**
   * bfloat16
   */
  CKPT_DTYPE_BF16 = 3,
  /**
   * int8_t
   */
  CKPT_DTYPE_I8 = 4,
  /**
   * uint8_t
   */
  CKPT_DTYPE_U8 = 5,
  /**
   * int16_t
   */
  CKPT_DTYPE_I16 = 6,
  /**
   * uint16_t
   */
  CKPT_DTYPE_U16 = 7,
  /**
   * int32_t
   */
  CKPT_DTYPE_I32 = 8,
  /**
   * uint32_t
   */
  CKPT_DTYPE_U32 = 9,
  /**
   * int64_t
   */
  CKPT_DTYPE_I64 = 10,
  /**
   * uint64_t
   */
  CKPT_DTYPE_U64 = 11,
  /**
   * bool, one byte: 0 or 1 (a file of somebody else's can hold other bytes; they are passed on as they are)
   */
  CKPT_DTYPE_BOOL = 12,
} ckpt_dtype;

/**
 * What counts as better. Enum arguments enter as plain integers; a number that is none of them is refused.
 */
typedef enum ckpt_mode {
  /**
   * By the metric's name: max for names that contain "acc", begin with "fmeasure", or that Keras maximizes
   * (auc, precision, recall, ...), with or without "val_"; min for the rest.
   */
  CKPT_MODE_AUTO = 0,
  /**
   * Smaller is better.
   */
  CKPT_MODE_MIN = 1,
  /**
   * Larger is better.
   */
  CKPT_MODE_MAX = 2,
} ckpt_mode;

/**
 * How a save runs beside the training.
 */
typedef enum ckpt_async {
  /**
   * ckpt_save() returns when the file is committed.
   */
  CKPT_ASYNC_OFF = 0,
  /**
   * The buffers are copied to staging memory before ckpt_save() returns, and written in the background.
   */
  CKPT_ASYNC_COPY = 1,
  /**
   * The buffers are written in place in the background: they must not change before ckpt_wait_buffers().
   */
  CKPT_ASYNC_BORROW = 2,
  /**
   * The buffers are snapshot by copy-on-write. In this version as CKPT_ASYNC_COPY, and a warning is logged.
   */
  CKPT_ASYNC_SNAPSHOT = 3,
} ckpt_async;

/**
 * What becomes of a save in the background while one is being made and another one waits.
 */
typedef enum ckpt_backpressure {
  /**
   * ckpt_save() waits until there is room.
   */
  CKPT_BACKPRESSURE_BLOCK = 0,
  /**
   * It takes the place of the one that waits, which is not made; see ckpt_options_set_backpressure().
   */
  CKPT_BACKPRESSURE_REPLACE = 1,
} ckpt_backpressure;

/**
 * How bytes reach the disk.
 */
typedef enum ckpt_backend {
  /**
   * What is faster here, found out at the first large save.
   */
  CKPT_BACKEND_AUTO = 0,
  /**
   * Through the page cache.
   */
  CKPT_BACKEND_BUFFERED = 1,
  /**
   * Past the page cache (O_DIRECT); through it where that is refused.
   */
  CKPT_BACKEND_DIRECT = 2,
} ckpt_backend;

/**
 * What a finished save survives.
 */
typedef enum ckpt_durability {
  /**
   * A loss of power: file and directory are flushed to the disk.
   */
  CKPT_DURABILITY_FULL = 0,
  /**
   * A crash of the process, not one of the machine: nothing is flushed.
   */
  CKPT_DURABILITY_NONE = 1,
} ckpt_durability;

/**
 * What becomes of a session whose file path another process uses.
 */
typedef enum ckpt_lock {
  /**
   * ckpt_new() fails with CKPT_E_STATE.
   */
  CKPT_LOCK_FAIL = 0,
  /**
   * ckpt_new() waits for the end of the other session.
   */
  CKPT_LOCK_WAIT = 1,
  /**
   * Nobody is looked for: two sessions that save to the same paths undo each other's work.
   */
  CKPT_LOCK_OFF = 2,
} ckpt_lock;

/**
 * What becomes of a save that comes up where the monitored value is NaN.
 */
typedef enum ckpt_on_nan {
  /**
   * It is not made.
   */
  CKPT_ON_NAN_SKIP = 0,
  /**
   * It is made under another name.
   */
  CKPT_ON_NAN_ASIDE = 1,
  /**
   * It is made as Keras makes it.
   */
  CKPT_ON_NAN_KERAS = 2,
} ckpt_on_nan;

/**
 * How a checkpoint is opened: flags, to be combined with |. Another bit is CKPT_E_INVALID_ARGUMENT.
 */
typedef enum ckpt_open_flags {
  /**
   * Whatever can be read is.
   */
  CKPT_OPEN_DEFAULT = 0,
  /**
   * The HDF5 library, whose own parser is not made for files from strangers, takes no part. It does not without this
   * flag either: this version reads everything by itself.
   */
  CKPT_OPEN_NO_HDF5_LIBRARY = 1,
} ckpt_open_flags;

/**
 * How a model is loaded: flags, to be combined with |. Another bit is CKPT_E_INVALID_ARGUMENT.
 */
typedef enum ckpt_load_flags {
  /**
   * All tensors of the model, as they are.
   */
  CKPT_LOAD_EXACT = 0,
  /**
   * Where the file and the model have floats of other widths (float16, bfloat16, float32, float64), they are
   * converted: to the nearest, ties to even, what is too large to infinity; NaN stays NaN.
   */
  CKPT_LOAD_CONVERT_FLOATS = 1,
  /**
   * Tensors of the model that the file does not have are left as they are.
   */
  CKPT_LOAD_PARTIAL = 2,
  /**
   * As Keras' load_weights(skip_mismatch=True): where the shape or the dtype of a tensor is another, or the file
   * does not have it, its whole group is left as it is: all tensors of the model whose paths differ from its own
   * in the last component alone. (A tensor at the root has no group. With CKPT_LOAD_PARTIAL, one that the file
   * does not have does not keep its group from being loaded.)
   */
  CKPT_LOAD_SKIP_MISMATCH = 4,
  /**
   * Checksums are not compared: a tensor that another program has changed is loaded all the same.
   */
  CKPT_LOAD_UNVERIFIED = 8,
} ckpt_load_flags;

/**
 * A checkpointing session: the policy, the writer, the state of one training. Any thread may use it; it locks
 * itself, and not while bytes move.
 *
 * A fork leaves the thread of a session whose saves run in the background (ckpt_options_set_async()) in the parent,
 * where it goes on. In the child all functions of a session that has begun such a save are CKPT_E_STATE (those that
 * return no status: false, NULL), and ckpt_free() there neither waits nor touches the parent's files. A new session of
 * the child's own works.
 */
typedef struct ckpt ckpt;

/**
 * A Keras model in the making: its layers, the optimizer, and where their variables are. By one thread at a time.
 *
 * It knows what keras.Sequential makes of the layers: their configuration, and the paths, the shapes and the dtypes of
 * their variables, as Keras 3.15. Strings are copied; the buffers are borrowed, as those of a ckpt_model are.
 */
typedef struct ckpt_keras ckpt_keras;

/**
 * The tensors of a model by their paths in the checkpoint, with the caller's buffers. By one thread at a time.
 *
 * Paths, shapes, strides and names are copied; the buffers are borrowed: they have to live until the model is freed
 * or ckpt_model_set_data() replaces them.
 */
typedef struct ckpt_model ckpt_model;

/**
 * The options of a session. By one thread at a time; ckpt_new() copies them.
 */
typedef struct ckpt_options ckpt_options;

/**
 * An open checkpoint. Any thread may use it, several at a time.
 */
typedef struct ckpt_reader ckpt_reader;

/**
 * Receives log lines: UTF-8 without a newline at either end, valid during the call. May be called from any thread
 * that is in a call on the session, and from the one that makes its saves in the background; one line at a time, and not
 * while a progress function of the same options is called. It may call into the library, but must not throw, longjmp or
 * free its session; what waits for a save in the background (ckpt_save(), ckpt_wait(), ckpt_wait_buffers()) is
 * CKPT_E_STATE in it.
 */
typedef void (*ckpt_log_fn)(enum ckpt_log_level level, const char *message, void *user);

/**
 * Gives staging memory: nbytes at a multiple of alignment, a power of two; NULL where there is none. From any thread.
 */
typedef void *(*ckpt_alloc_fn)(size_t nbytes, size_t alignment, void *user);

/**
 * Takes staging memory back, as ckpt_alloc_fn gave it. From any thread.
 */
typedef void (*ckpt_dealloc_fn)(void *memory, size_t nbytes, void *user);

/**
 * Hears how far a save has come: the path as ckpt_path() gave it, bytes written, bytes in all. The same rules as for
 * ckpt_log_fn hold; ckpt_cancel() is fine.
 */
typedef void (*ckpt_progress_fn)(const char *path, uint64_t done, uint64_t total, void *user);

/**
 * A metric of the logs.
 */
typedef struct ckpt_metric {
  /**
   * Its name, UTF-8, such as "val_loss".
   */
  const char *name;
  /**
   * Its value.
   */
  double value;
} ckpt_metric;

/**
 * What a save took.
 */
typedef struct ckpt_stats {
  /**
   * Bytes of the file.
   */
  uint64_t bytes;
  /**
   * Seconds that ckpt_save() kept its caller.
   */
  double stall_secs;
  /**
   * Seconds of copying buffers for a save in the background; 0 where they are not copied.
   */
  double copy_secs;
  /**
   * Seconds of writing.
   */
  double write_secs;
  /**
   * Seconds of flushing to the disk.
   */
  double sync_secs;
} ckpt_stats;

/**
 * Fills dst with nbytes of a tensor, row-major, from byte `offset` of it on: whole elements, 2 MiB at most, never 0.
 *
 * A save calls the fetch functions of its model in the order of the bytes in the file, which is not that of
 * ckpt_model_add_source(): HDF5 sorts names. Of each tensor, every byte is asked for once, in ascending order without
 * gaps. Never two calls at once, all of one save from one thread: the one that calls ckpt_save() or ckpt_model_save(),
 * but of CKPT_ASYNC_BORROW's a thread of the library's. No lock of the library's is held.
 *
 * @param dst  memory of the library's, aligned to the elements; filled when the function returns, so it waits for what a
 *             stream or a queue still has to do. With ckpt_options_set_staging_allocator(), mostly memory of that.
 * @return CKPT_OK; another status ends the save, which fails with it, and with what ckpt_set_last_error() said, and leaves
 *         the old file. A number that no status has counts as CKPT_E_INVALID_ARGUMENT. The function must not throw,
 *         longjmp, or use its model.
 */
typedef ckpt_status (*ckpt_fetch_fn)(void *dst, uint64_t offset, uint64_t nbytes, void *user);

/**
 * Takes nbytes of a tensor, row-major, from byte `offset` of it on: whole elements, 2 MiB at most, never 0.
 *
 * A load calls the put functions of its model from the thread that called it, never two at once; tensor by tensor as
 * they are in the file, each byte once, in ascending order without gaps. Other threads meanwhile read what comes next,
 * and fill tensors that are in memory. No lock of the library's is held.
 *
 * @param src  memory of the library's, aligned to the elements, valid until the function returns, which waits for a
 *             stream or a queue that still has to read it
 * @return as of ckpt_fetch_fn; the load fails with it, and the content of the model's tensors is not defined
 */
typedef ckpt_status (*ckpt_put_fn)(const void *src, uint64_t offset, uint64_t nbytes, void *user);

/**
 * Hears that the tensors of a model are in use, and that they no longer are: where what changes them is asynchronous
 * itself (a GPU's stream, a queue), it notes there what has to be done first, and what has to wait.
 *
 * A BEGIN is called by the thread that makes the call (ckpt_save() of a save that is due, in whatever mode;
 * ckpt_model_save(); all loads), before any fetch or put function of the model. An END follows every BEGIN that returned
 * CKPT_OK, on whatever thread that is, before ckpt_wait_buffers() or the load returns. Several saves of one
 * model may be under way at once, in the background or in several sessions, each with its own BEGIN and END.
 *
 * @return CKPT_OK; another status fails the save, which leaves the old file, or the load, with what
 *         ckpt_set_last_error() said. Else as of ckpt_fetch_fn.
 */
typedef ckpt_status (*ckpt_fence_fn)(enum ckpt_fence_at at, void *user);

/**
 * Ends what was handed over: from any thread, without a lock of the library's; it must not throw, longjmp, or call the
 * library.
 */
typedef void (*ckpt_release_fn)(void *user);

/**
 * What a tensor in a checkpoint is. Its pointers are valid while the reader lives.
 */
typedef struct ckpt_tensor_info {
  /**
   * Where it stands: components joined by '/'.
   */
  const char *path;
  /**
   * The type of an element.
   */
  enum ckpt_dtype dtype;
  /**
   * Axes; 0 for a scalar.
   */
  size_t rank;
  /**
   * Sizes along the axes: rank of them.
   */
  const int64_t *shape;
  /**
   * Bytes of all elements.
   */
  uint64_t nbytes;
} ckpt_tensor_info;

/**
 * A part of a model that is called otherwise in a file: paths that begin with model_prefix begin with file_prefix
 * there. A prefix is whole components ("layers/dense", not "layers/den"); "" is the beginning of every path.
 */
typedef struct ckpt_rename {
  /**
   * Its name in the file, UTF-8.
   */
  const char *file_prefix;
  /**
   * Its name in the model, UTF-8.
   */
  const char *model_prefix;
} ckpt_rename;

/**
 * Where a training goes on.
 */
typedef struct ckpt_resume_info {
  /**
   * The epoch to be run next, from 0.
   */
  uint64_t epoch;
  /**
   * The batch to be run next in it, from 0: not 0 only after a save that was made within an epoch.
   */
  uint64_t batch;
  /**
   * Whether there is a value to beat.
   */
  bool has_best;
  /**
   * The value to beat, as ckpt_best() has it; 0 where there is none.
   */
  double best;
  /**
   * The checkpoint, as ckpt_path() had it, or the stable name; valid until the session's next ckpt_resume() or ckpt_free().
   */
  const char *path;
} ckpt_resume_info;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * The name of a status, as in "CKPT_E_IO".
 *
 * A static string, never NULL: "unknown status" for a number that is none of them. Any thread.
 */
const char *ckpt_status_name(ckpt_status status);

/**
 * The message of the calling thread's last failure: which function, what failed, on what, what to do.
 *
 * UTF-8, never NULL, "" where nothing has failed in this thread. A success leaves it as it is. Valid until the
 * thread's next failing call.
 */
const char *ckpt_last_error(void);

/**
 * Sets what ckpt_last_error() says in the calling thread: for functions of the caller's that the library calls (a
 * ckpt_fetch_fn, for example) and that are about to return a failure. What fails because of it says so, too, whichever thread
 * hears of it.
 *
 * @param message  UTF-8 (what is not, is replaced), copied
 */
enum ckpt_status ckpt_set_last_error(const char *message);

/**
 * The `errno` behind the calling thread's last failure, if that was CKPT_E_IO or CKPT_E_NO_SPACE; else 0.
 */
int ckpt_last_os_error(void);

/**
 * The version of the library that is running: major << 16 | minor << 8 | patch. Compare with CKPT_VERSION, that
 * of the header.
 */
uint32_t ckpt_version(void);

/**
 * Makes options with Keras' defaults; *out is to be freed with ckpt_options_free().
 *
 * @param out  not NULL; untouched on failure
 */
enum ckpt_status ckpt_options_new(struct ckpt_options **out);

/**
 * Frees options; NULL is fine. Sessions made from them go on.
 */
void ckpt_options_free(struct ckpt_options *options);

/**
 * Sets the metric that decides what is best: a name in the logs, such as "val_loss", the default. UTF-8, not
 * empty; copied.
 */
enum ckpt_status ckpt_options_set_monitor(struct ckpt_options *options, const char *metric);

/**
 * Sets what counts as better; CKPT_MODE_AUTO by default.
 */
enum ckpt_status ckpt_options_set_mode(struct ckpt_options *options, ckpt_mode mode);

/**
 * Saves only when the monitored metric is better than ever before; false by default. Where the logs lack the
 * metric, a warning is logged and the save is due, as in Keras.
 */
enum ckpt_status ckpt_options_set_save_best_only(struct ckpt_options *options, bool save_best_only);

/**
 * Saves the weights alone; false by default. The file path then ends in ".weights.h5", ".weights.json" or
 * ".safetensors", else in ".keras" or ".h5".
 */
enum ckpt_status ckpt_options_set_save_weights_only(struct ckpt_options *options, bool save_weights_only);

/**
 * Sets when a save comes up: CKPT_SAVE_FREQ_EPOCH (0, the default) for the end of each epoch, n for every n
 * batches, counted across epochs as Keras counts them, CKPT_SAVE_FREQ_NEVER for neither.
 */
enum ckpt_status ckpt_options_set_save_freq(struct ckpt_options *options, uint64_t batches);

/**
 * Sets the best value to beat from the start; none by default. NaN is refused.
 */
enum ckpt_status ckpt_options_set_initial_value_threshold(struct ckpt_options *options, double threshold);

/**
 * Sets by how much a value has to be better than the best to count as an improvement; 0 by default. In the
 * metric's units; its sign does not matter, as in Keras' MonitorCallback. NaN and infinities are refused.
 */
enum ckpt_status ckpt_options_set_min_delta(struct ckpt_options *options, double min_delta);

/**
 * 1 logs what Keras prints under verbose=1, in the same words; 0, the default, is silent.
 *
 * The lines go to the log function where one is set, else to standard output (warnings to standard error).
 */
enum ckpt_status ckpt_options_set_verbose(struct ckpt_options *options, int verbose);

/**
 * Sets the function that receives log lines, and what it gets as `user`; NULL takes it away.
 *
 * `user` has to live as long as every session made from these options.
 */
enum ckpt_status ckpt_options_set_log(struct ckpt_options *options, ckpt_log_fn log, void *user);

/**
 * Sets the most bytes of tensors in one file, where a checkpoint is made of several (".weights.json"); 5 GiB by
 * default. A tensor that is larger has a file of its own. 0 is refused.
 */
enum ckpt_status ckpt_options_set_max_shard_bytes(struct ckpt_options *options,
                                                  uint64_t bytes);

/**
 * Sets whether a file that is no longer kept (by the keep_* rules, or because a save replaces it) becomes the next
 * temporary file: its blocks are allocated already, so that a save takes about half the time. It costs the space of
 * one checkpoint while the session lives; the spare files begin with ".ckpt-tmp" and go with ckpt_free().
 *
 * Not called: where files have at least 1 MiB, and what is free on the disk is at least 4 checkpoints and 10 % of the
 * file system. Only files that this session wrote are taken, on ext4, XFS, F2FS and tmpfs,
 * in the directory of the newest save, and only those that nobody on this host has open, mapped or linked; others are
 * removed, and what is in them stays as it was. Turn it off where other hosts read the directory through NFS version
 * 3: its readers hold no file open on this host.
 */
enum ckpt_status ckpt_options_set_recycle(struct ckpt_options *options,
                                          bool on);

/**
 * Sets what becomes of a session whose file path another process uses; CKPT_LOCK_FAIL by default.
 *
 * While a session lives its process holds a lock file, ".ckpt-lock-<number>", in the directory that all paths of the
 * template have in common. The template is the same where that directory is, whichever path leads to it, and the text
 * that follows is. Sessions of one process may share a template, but each counts its own saves: which of theirs is the
 * newest, ckpt_resume() cannot tell. Where the directory is not there yet, the first save or ckpt_prepare() takes the
 * lock: what ckpt_new() would have done, they do then, CKPT_E_STATE or the wait, which ckpt_cancel() ends; what another
 * process has saved there by then does not count. (Where two may begin at once, make the directory first.) The lock
 * file goes with the last session of the process; a process that was killed leaves the file, but not the lock, also
 * where a child that it had forked lives on. A child that goes on with its parent's session needs no lock of its own
 * while the parent has it.
 *
 * Where the file cannot be made (a directory that is read-only, a file system without flock()) a line is logged
 * (CKPT_LOG_WARN), and the session goes on without.
 */
enum ckpt_status ckpt_options_set_lock(struct ckpt_options *options,
                                       ckpt_lock kind);

/**
 * Makes a save due by the clock, besides those by save_freq: at the first batch end or epoch end at which `secs` seconds
 * have passed since the last save was due by any rule, or since ckpt_new() or ckpt_resume(). By default none is.
 *
 * What holds for this and for ckpt_options_set_save_on_signal(), _overhead_budget() and _mtbf():
 *
 * - "batch" becomes a key of the file path. At the end of an epoch it is the last batch that ckpt_on_train_batch_end() was
 *   called with.
 * - With save_best_only, such a save is made as every other where the logs of the event have the monitored metric (at the
 *   end of a batch they mostly have no val_loss) and it is better than ever. Else it must not take the best one's
 *   place: it goes to the stable name of ckpt_options_set_save_last(), and is no candidate for the best. So does one whose
 *   path needs a metric that the logs do not have.
 * - Without save_last these are not made, which is logged once (CKPT_LOG_WARN): they stay due, event after event, until
 *   the event's metrics make them possible.
 * - ckpt_resume() goes on with all that, but for the clock, which begins anew.
 *
 * @param secs  above 0, by a clock that nobody can set
 */
enum ckpt_status ckpt_options_set_save_every_secs(struct ckpt_options *options,
                                                  double secs);

/**
 * Makes a save due when a signal comes (SIGTERM of a scheduler that takes the machine away, SIGUSR1 of a user): at the
 * next end of a batch or an epoch, once. May be called again for other signals. See ckpt_options_set_save_every_secs()
 * for where the save goes, and ckpt_preempted().
 *
 * ckpt_new() sets a handler (SA_RESTART, SA_ONSTACK) that only counts, and then calls the handler that it found, with
 * the mask and the flags of that, but for SA_RESETHAND and SA_NODEFER. What had been ignored or left to the system
 * (SIGTERM ends a program) is neither now: ending it, after the save, is the trainer's. Several sessions may listen to
 * one signal. ckpt_free() of the last one puts back what was there before, unless another handler has been set since;
 * such a one has to call the one that it finds if the session, and those that come after it, are to go on listening. In
 * a child that is forked and has no session of its own for the signal, the handler does what had been done before.
 *
 * @param signum  a signal that a program can catch and go on from: others (SIGKILL, SIGSTOP, SIGSEGV, SIGABRT, ...) are
 *                CKPT_E_INVALID_ARGUMENT
 */
enum ckpt_status ckpt_options_set_save_on_signal(struct ckpt_options *options,
                                                 int signum);

/**
 * Whether one of the session's signals has come since ckpt_new(): true from its arrival on, also after the save. false
 * for NULL. Takes no lock and may be called in a signal handler.
 */
bool ckpt_preempted(const struct ckpt *session);

/**
 * Makes saves due as often as a part of the training's time pays for, 0.02 for one fiftieth. By default none is.
 *
 * What a save costs is measured: the seconds that ckpt_save() keeps its caller, and those by which the batches beside the
 * save are slower than the others, on average. The next one is due when it costs no more than that part of the time that
 * was spent since the last one was due, stalls left out; not while a save of the session is being made. The first is due
 * at the first end of a batch, to be measured; after ckpt_resume() the cost is known. See
 * ckpt_options_set_save_every_secs() for where the saves go.
 *
 * @param fraction  above 0, at most 1
 */
enum ckpt_status ckpt_options_set_overhead_budget(struct ckpt_options *options,
                                                  double fraction);

/**
 * Makes saves due as often as loses the least time, to saves and to what has to be done again after a failure: by Young's
 * and Daly's optimum, from the mean time between failures and the cost of a save, which is measured as
 * ckpt_options_set_overhead_budget() says. With both, the longer of the two intervals counts. By default none is.
 *
 * @param secs  the mean time between failures in seconds, above 0
 */
enum ckpt_status ckpt_options_set_mtbf(struct ckpt_options *options,
                                       double secs);

/**
 * Sets what becomes of a save where the monitored value is NaN; CKPT_ON_NAN_SKIP by default.
 *
 * - CKPT_ON_NAN_SKIP: it is not made, and NaN is never the best. Without save_best_only a line says so (CKPT_LOG_WARN).
 * - CKPT_ON_NAN_ASIDE: it is made with ".nan" before the ending of its path ("m.nan.weights.h5"), also under
 *   save_best_only. It is never the best, no keep_* rule counts or removes it, and ckpt_resume() does not take it.
 * - CKPT_ON_NAN_KERAS: it is made as any other. Under save_best_only a first NaN becomes the best, and no value is better.
 */
enum ckpt_status ckpt_options_set_on_nan(struct ckpt_options *options,
                                         ckpt_on_nan on_nan);

/**
 * Sets whether ckpt_on_train_end() loads the best checkpoint into the model, as restore_best_weights of Keras'
 * EarlyStopping does; false by default.
 */
enum ckpt_status ckpt_options_set_restore_best(struct ckpt_options *options,
                                               bool restore_best);

/**
 * The training has ended: waits for all saves, and tells of a failure as ckpt_wait() does. Then, with restore_best, loads
 * the file of ckpt_best_path() into the model, as ckpt_load_best() does; where there is none, a line says so
 * (CKPT_LOG_WARN), and the model stays as it is. After a failure of a save nothing has been loaded: call it again.
 *
 * Like every event, it forgets a save that was due and not made. CKPT_E_STATE as ckpt_wait() has it.
 *
 * @param model_or_null  its tensors are written with restore_best, where NULL is CKPT_E_INVALID_ARGUMENT; else unused
 */
enum ckpt_status ckpt_on_train_end(struct ckpt *session,
                                   struct ckpt_model *model_or_null);

/**
 * Keeps the last n saves; 0, the default, turns this rule off.
 *
 * With every keep_* rule off all files are kept. Else, after each save that is durable, a file stays if one of the rules
 * keeps it. The newest and the best (of equals, the older) always stay, and so does every file that this session neither
 * wrote nor took over by resuming, or that somebody has replaced since. Each removal is logged (CKPT_LOG_DEBUG) with the
 * reason. With CKPT_DURABILITY_NONE nothing is ever known to be on the disk: older files go all the same, and after a loss
 * of power the ones that stayed may be damaged; what is promised there holds for a crash of the process alone.
 *
 * Where a save finds no room on the disk, the files that go after it anyway go before it instead, one at a time, if that
 * makes enough room; but the newest and the best so far stay until it is durable. If it does not, the save is
 * CKPT_E_NO_SPACE, and nothing has been touched.
 */
enum ckpt_status ckpt_options_set_keep_last(struct ckpt_options *options,
                                            uint64_t n);

/**
 * Keeps the k best saves by the monitored metric (of equals, the older); 0, the default, turns this rule off.
 * See ckpt_options_set_keep_last().
 */
enum ckpt_status ckpt_options_set_keep_best(struct ckpt_options *options, uint64_t k);

/**
 * Keeps the saves of every n-th epoch, counted from 1; 0, the default, turns this rule off. See
 * ckpt_options_set_keep_last().
 */
enum ckpt_status ckpt_options_set_keep_every(struct ckpt_options *options, uint64_t epochs);

/**
 * Keeps the run's first save, and each that was begun at least `secs` seconds after the last one that this rule keeps, by
 * the system's clock (where that is set back, it begins anew); 0, the default, turns this rule off. See
 * ckpt_options_set_keep_last().
 *
 * Negative numbers, NaN and infinities are refused.
 */
enum ckpt_status ckpt_options_set_keep_every_secs(struct ckpt_options *options,
                                                  double secs);

/**
 * Sets a stable name for the newest save: after each one that is durable, `path` is a hard link to its file. Where there
 * are no hard links, or none to there (another file system), it is a copy: a save takes up to twice as long then, and the
 * space of one more checkpoint. NULL, the default, takes it away.
 *
 * The name changes at once and durably: it always is a whole checkpoint, the newest or, while that is being put there,
 * the one before. What was there before the first save is replaced, be it a symbolic link. No keep_* rule removes it. If it
 * cannot be set, that is no failure of the save: a warning is logged, the name stays with the earlier one, and the next
 * save tries again.
 *
 * It is also where saves go that would take the best one's place, or have no path: see
 * ckpt_options_set_save_every_secs(). Saves aside (CKPT_ON_NAN_ASIDE) do not get the name.
 *
 * UTF-8, copied. A relative path is taken from the current directory of ckpt_new(); directories that are missing are made.
 * ckpt_new() refuses a path with another ending than the template's or one that the template could write
 * (CKPT_E_INVALID_ARGUMENT), and, for ".weights.json", one in another directory (CKPT_E_UNSUPPORTED): the shards are those
 * of the newest index, and stay as long as the name needs them.
 */
enum ckpt_status ckpt_options_set_save_last(struct ckpt_options *options,
                                            const char *path);

/**
 * Sets how saves run beside the training; CKPT_ASYNC_OFF by default. What changes with the others, ckpt_save() says.
 *
 * A process that ends by exit() or by returning from main() waits for the saves in the background that need the
 * caller's memory no more (CKPT_ASYNC_COPY: those whose ckpt_save() has returned), and they are made. All others are
 * cancelled, since the buffers may be going away: their destinations stay as they were, and no temporary file is left.
 * (What is freed before that, by the destructor of a static object or an interpreter, must not be borrowed any more: wait
 * first.)
 * No function of the caller's is called from the background then. (After _exit(), abort(), a signal, or an exit() in a
 * progress function the destinations are as they were, too, and the next ckpt_new() removes the temporary file.)
 */
enum ckpt_status ckpt_options_set_async(struct ckpt_options *options,
                                        ckpt_async kind);

/**
 * Sets what becomes of a save in the background while one is being made and another one waits;
 * CKPT_BACKPRESSURE_BLOCK by default.
 *
 * With CKPT_BACKPRESSURE_REPLACE the one that waits is not made; a line is logged, and it counts neither as made nor as
 * failed. But where it is the best so far by the monitored metric, and the new one is no better, ckpt_save() waits.
 */
enum ckpt_status ckpt_options_set_backpressure(struct ckpt_options *options,
                                               ckpt_backpressure backpressure);

/**
 * Sets the most bytes of staging memory that the saves of a session use; 0, the default, for what one checkpoint needs.
 * It is made in blocks of 2 MiB, two at least, when they are first needed or by ckpt_prepare(), and kept until
 * ckpt_free(). With less than a checkpoint, a copy (CKPT_ASYNC_COPY) goes on as fast as the disk takes it. Not counted
 * are 8 MiB for each thread that writes buffers past the page cache from where they are (CKPT_ASYNC_OFF and _BORROW).
 */
enum ckpt_status ckpt_options_set_staging_limit(struct ckpt_options *options,
                                                uint64_t bytes);

/**
 * Sets where staging memory comes from, pinned memory for example, and what the functions get as `user`; both NULL:
 * from the system, the default. `user` has to live as long as every session made from these options.
 */
enum ckpt_status ckpt_options_set_staging_allocator(struct ckpt_options *options,
                                                    ckpt_alloc_fn alloc,
                                                    ckpt_dealloc_fn dealloc,
                                                    void *user);

/**
 * Sets how bytes reach the disk; CKPT_BACKEND_AUTO by default.
 */
enum ckpt_status ckpt_options_set_backend(struct ckpt_options *options, ckpt_backend backend);

/**
 * Sets what a finished save survives; CKPT_DURABILITY_FULL by default.
 */
enum ckpt_status ckpt_options_set_durability(struct ckpt_options *options, ckpt_durability durability);

/**
 * Sets how many threads a save or a load may use, the caller's own among them; 0, the default, for as many as
 * help. None of them outlives the call.
 */
enum ckpt_status ckpt_options_set_threads(struct ckpt_options *options, uint32_t threads);

/**
 * Sets the function that hears how far saves have come, and what it gets as `user`; NULL takes it away.
 *
 * It is called from the thread that writes, at most ten times a second, and once more when a save has been made, with
 * done equal to total. `user` has to live as long as every session made from these options.
 */
enum ckpt_status ckpt_options_set_progress(struct ckpt_options *options,
                                           ckpt_progress_fn progress,
                                           void *user);

/**
 * Opens a session; *out is to be freed with ckpt_free().
 *
 * What a save that was cut off has left beside the template's files (".ckpt-tmp*" that no living process holds) is
 * removed.
 *
 * One process at a time uses a template: CKPT_E_STATE where another one does, with a message that says which, unless
 * ckpt_options_set_lock() asks to wait, or not to care.
 *
 * @param filepath         a Python format string, UTF-8, with the keys "epoch" and "batch" (both counted from 1 in
 *                         names; "batch" where batches can make saves due) and every metric of the logs:
 *                         "ckpt/{epoch:02d}-{val_loss:.3f}.keras". The whole format language of int, float and str
 *                         works, digit for digit as CPython prints it; attributes and indices do not. A template that
 *                         can never work is CKPT_E_TEMPLATE, and the message shows where. It ends in ".weights.h5",
 *                         ".weights.json" or ".safetensors" with save_weights_only, else in ".keras" or ".h5": the one
 *                         kind in place of the other is CKPT_E_INVALID_ARGUMENT, another ending CKPT_E_UNSUPPORTED.
 * @param options_or_null  copied; NULL for Keras' defaults
 * @param out              not NULL; untouched on failure
 */
enum ckpt_status ckpt_new(const char *filepath,
                          const struct ckpt_options *options_or_null,
                          struct ckpt **out);

/**
 * Ends a session; NULL is fine. A save that was due and not made is forgotten.
 *
 * Waits for the saves that are being made; with ckpt_cancel() before, not for long. A failure that no call has
 * reported is logged (CKPT_LOG_ERROR). With the last session of the process under this template its lock file goes. Not
 * to be called from a log, progress or fetch function.
 */
void ckpt_free(struct ckpt *session);

/**
 * An epoch begins. Without this call the epoch is that of the last ckpt_on_epoch_end() plus one, 0 at first.
 *
 * Like every event, it forgets a save that was due and not made.
 *
 * @param epoch  counted from 0
 */
enum ckpt_status ckpt_on_epoch_begin(struct ckpt *session, uint64_t epoch);

/**
 * A batch has ended: decides whether a save is due, where options.save_freq counts batches or there is one of the options
 * beside it (ckpt_options_set_save_every_secs() and those that it names). Without one due it takes well under a microsecond
 * and allocates nothing.
 *
 * @param batch  its index in the epoch, counted from 0. It may step by more than 1; one that does not grow means a
 *               new epoch.
 * @param logs   the metrics so far, n of them; NULL is fine where n is 0
 *
 * CKPT_E_TEMPLATE where a save by save_freq came up and the file path needs a metric that the logs do not have.
 */
enum ckpt_status ckpt_on_train_batch_end(struct ckpt *session,
                                         uint64_t batch,
                                         const struct ckpt_metric *logs,
                                         size_t n);

/**
 * An epoch has ended: decides whether a save is due, where options.save_freq is CKPT_SAVE_FREQ_EPOCH or there is one of
 * the options beside it.
 *
 * @param epoch  counted from 0
 * @param logs   the epoch's metrics, n of them; NULL is fine where n is 0
 *
 * CKPT_E_TEMPLATE where the file path needs a metric that the logs do not have, even when nothing would be saved,
 * as in Keras; not where save_freq is another.
 */
enum ckpt_status ckpt_on_epoch_end(struct ckpt *session,
                                   uint64_t epoch,
                                   const struct ckpt_metric *logs,
                                   size_t n);

/**
 * Did the last event make a save due that has not been made? false for NULL.
 */
bool ckpt_should_save(const struct ckpt *session);

/**
 * Where the save that is due goes; NULL if none is due, and for NULL. Valid until the session's next event, save or
 * free.
 */
const char *ckpt_path(const struct ckpt *session);

/**
 * Makes the save that is due: CKPT_E_STATE if none is. Whether it is made when this returns is up to
 * ckpt_options_set_async().
 *
 * The file is written under a temporary name in the destination's directory, flushed, and renamed (then the
 * directory is flushed): at every instant, also after a crash, the destination is the whole old file or the whole
 * new one. Missing directories are made. After a failure the old file stands, what was best is still best, and the
 * save is still due until the next event: it may be tried again. No lock is held while bytes move; a second save
 * meanwhile, from another thread, is CKPT_E_STATE where saves are not made in the background.
 *
 * Where they are:
 *
 * - Each is handed to a thread of the session, which the first one begins. One is being made and one waits at most;
 *   what becomes of a third is up to ckpt_options_set_backpressure(). Saves are made in the order of their events.
 * - A failure that comes later is told once, by the next ckpt_save(), ckpt_wait_buffers() or ckpt_wait(): status,
 *   message, and ckpt_last_os_error() are those of the first failure that no call has told; others are logged
 *   (CKPT_LOG_ERROR). A ckpt_save() that tells of it has not made its own save, which is still due. Events never tell
 *   of it.
 * - The best is taken over now, and given back if the save fails.
 * - A relative path leads from the directory that the process is in now.
 * - The model may be changed or freed when this returns, with ckpt_model_set_data() too. Its buffers may change, move or
 *   be freed with CKPT_ASYNC_COPY, not with CKPT_ASYNC_BORROW: see ckpt_wait_buffers().
 * - CKPT_E_STATE from a log, progress or fetch function, since a save may have to wait for that to return.
 *
 * @param model  unchanged during the call, as are its buffers
 */
enum ckpt_status ckpt_save(struct ckpt *session,
                           const struct ckpt_model *model);

/**
 * Returns when the buffers of all saves so far may change again, and be freed: with CKPT_ASYNC_BORROW, when they have
 * been written or need not be; else at once, but for saves that other threads are in.
 *
 * Tells of the failure of an earlier save in the background, as ckpt_save() says; the buffers may change all the same.
 * CKPT_E_STATE, at once, from a log or progress function of a session whose saves are made in the background or that
 * has a progress function, and from a fetch function of one of its saves.
 */
enum ckpt_status ckpt_wait_buffers(struct ckpt *session);

/**
 * Returns when all saves so far are durable, or have failed; several threads may wait.
 *
 * Tells of the failure of an earlier save in the background, as ckpt_save() says, to one of the callers. CKPT_E_STATE
 * as ckpt_wait_buffers() has it.
 */
enum ckpt_status ckpt_wait(struct ckpt *session);

/**
 * Ends the saves that are being made or wait, whichever thread is in them, as soon as can be: each has failed with
 * CKPT_E_CANCELLED, which is told as any failure is, with its destination as it was and no temporary file. One whose
 * file has its name already is made.
 *
 * Does not wait; CKPT_OK where there is nothing to cancel. May be called from a log or progress function.
 */
enum ckpt_status ckpt_cancel(struct ckpt *session);

/**
 * The value to beat: the best monitored value among the saves so far, or the initial threshold. As Keras'
 * ModelCheckpoint, it is kept under save_best_only; CKPT_E_NOT_FOUND before the first. A save in the background counts
 * until it fails.
 *
 * @param out  not NULL; untouched on failure
 */
enum ckpt_status ckpt_best(const struct ckpt *session,
                           double *out);

/**
 * The file of the best save that this session has made and that still stands, by the monitored metric; one in the
 * background counts from when it is durable. CKPT_E_NOT_FOUND before the first.
 *
 * @param out  not NULL; *out is valid until the session's next save or free, or the next call of this; untouched on
 *             failure
 */
enum ckpt_status ckpt_best_path(const struct ckpt *session,
                                const char **out);

/**
 * Loads the file of ckpt_best_path() into a model, as ckpt_reader_load() does; also while a save is being made in the
 * background. With CKPT_ASYNC_BORROW it waits first until all buffers may change, and is CKPT_E_STATE where
 * ckpt_wait_buffers() is; it tells of no earlier failure.
 */
enum ckpt_status ckpt_load_best(struct ckpt *session,
                                struct ckpt_model *model);

/**
 * Finds out before the first epoch what would otherwise fail after it: that the model can be saved under this
 * template (a .keras or .h5 file has its config), that its directory can be made and written to, and that a checkpoint
 * fits the space there is (CKPT_E_NO_SPACE; files that are kept to be written anew count as free, and those that go before
 * a save that finds no room: see ckpt_options_set_keep_last()). The model's layout is computed, and with CKPT_ASYNC_COPY the staging memory made, so that the first save is as fast as every other. Not
 * needed.
 */
enum ckpt_status ckpt_prepare(struct ckpt *session,
                              const struct ckpt_model *model);

/**
 * What the last save took that has been made; CKPT_E_NOT_FOUND before the first.
 *
 * @param out  not NULL; untouched on failure
 */
enum ckpt_status ckpt_last_stats(const struct ckpt *session, struct ckpt_stats *out);

/**
 * Makes a model without tensors; *out is to be freed with ckpt_model_free().
 *
 * @param out  not NULL; untouched on failure
 */
enum ckpt_status ckpt_model_new(struct ckpt_model **out);

/**
 * Frees a model, not its buffers; NULL is fine.
 */
void ckpt_model_free(struct ckpt_model *model);

/**
 * Adds a tensor. Nothing has changed after a failure.
 *
 * @param path     components joined by '/', as in "layers/dense/vars/0": none empty, ".", or "..", the first not
 *                 "libckpt"; 16 KiB a component and 64 KiB in all at most; each path once, and never both a tensor and a group
 * @param dtype    the type of an element
 * @param rank     axes, 0 (a scalar) to 32
 * @param shape    rank sizes, each 0 or more; NULL is fine for a scalar
 * @param strides  rank distances, in elements, from an element to the next along each axis, of either sign; NULL:
 *                 row-major without gaps. data is the address of the element whose indices are all 0. A tensor
 *                 with a stride of 0, or strides that overlap, can be saved, not loaded into.
 * @param data     the buffer, borrowed: read by a save, written by a load; NULL only if the tensor has no elements.
 *                 Tensors that are loaded into must not overlap.
 *
 * Keras' layers/<class in snake case>[_<n>]/vars/<i> are the paths of a layer's variables, n counting the layers
 * of a class from 1 (the first has no number); "optimizer/vars/<i>" are the optimizer's.
 */
enum ckpt_status ckpt_model_add(struct ckpt_model *model,
                                const char *path,
                                ckpt_dtype dtype,
                                size_t rank,
                                const int64_t *shape,
                                const int64_t *strides_or_null,
                                void *data);

/**
 * Sets Keras' "name" attribute of a group's variables, and makes the group where no tensor has: Keras writes such
 * empty groups (layers/flatten/vars). Calls on one group replace each other.
 *
 * @param group  the path that "/vars" follows, such as "layers/dense" or "optimizer"; "" is the root
 * @param name   UTF-8, 60,000 bytes at most; copied
 */
enum ckpt_status ckpt_model_set_name(struct ckpt_model *model,
                                     const char *group,
                                     const char *name);

/**
 * Says that a tensor's buffer has moved; its dtype, shape and strides stay as they were. One of
 * ckpt_model_add_source() has no buffer: CKPT_E_INVALID_ARGUMENT.
 *
 * @param path  a tensor that was added; CKPT_E_NOT_FOUND else
 * @param data  as in ckpt_model_add()
 */
enum ckpt_status ckpt_model_set_data(struct ckpt_model *model, const char *path, void *data);

/**
 * Sets the configuration of a .keras file (its config.json) or a legacy .h5 file, which need one: what Keras'
 * model.to_json() gives, or what it wrote into another file.
 *
 * @param config_json  UTF-8; a JSON object with Keras' "module", "class_name" and "config"; copied. Checked here: what
 *                     is not such an object is CKPT_E_INVALID_ARGUMENT.
 */
enum ckpt_status ckpt_model_set_config(struct ckpt_model *model,
                                       const char *config_json);

/**
 * Sets one of the assets of a .keras file: what a layer keeps beside its weights, such as a vocabulary. A further
 * call with the name replaces the bytes. The other formats have no room for assets.
 *
 * @param name   UTF-8, below "assets/" in the archive: components joined by '/', none empty, ".", or "..", no
 *               backslash; at most 255 bytes in a component, 3,072 in all, so that it can be unpacked; never both an
 *               asset and a directory of others. Keras hands a layer's load_assets() the directory
 *               "layers/<layer>", named as in ckpt_model_add().
 * @param bytes  n bytes, copied; NULL is fine if n is 0
 */
enum ckpt_status ckpt_model_set_asset(struct ckpt_model *model,
                                      const char *name,
                                      const void *bytes,
                                      size_t n);

/**
 * Sets an entry of what a .safetensors file says of itself (its "__metadata__"), such as "format". A further call
 * with the key replaces the value. The other formats have no room for it.
 *
 * @param key    UTF-8, not beginning with "libckpt.", which is ours; copied
 * @param value  UTF-8; copied
 */
enum ckpt_status ckpt_model_set_metadata(struct ckpt_model *model,
                                         const char *key,
                                         const char *value);

/**
 * Saves one file, with no policy, durably: as a whole or not at all (see ckpt_save()).
 *
 * @param path  its ending says what it is: ".keras" or ".h5" (CKPT_E_STATE without ckpt_model_set_config()), or of the
 *              weights alone ".weights.h5", ".weights.json" (with its shards beside it) or ".safetensors"; other
 *              endings are CKPT_E_UNSUPPORTED. Missing directories are made.
 */
enum ckpt_status ckpt_model_save(const struct ckpt_model *model,
                                 const char *path);

/**
 * How many tensors the model's last ckpt_reader_load_flags() left as they were; 0 before, and for NULL.
 */
size_t ckpt_model_skipped_len(const struct ckpt_model *model);

/**
 * Tells which tensor the model's last ckpt_reader_load_flags() left as it was, and why. Both texts are valid until
 * the model's next such load, or its end.
 *
 * @param index   below ckpt_model_skipped_len(); in the order of ckpt_model_add()
 * @param path    not NULL; its path in the model; untouched on failure
 * @param reason  not NULL; a message for a person; untouched on failure
 */
enum ckpt_status ckpt_model_skipped(const struct ckpt_model *model,
                                    size_t index,
                                    const char **path,
                                    const char **reason);

/**
 * Adds a tensor that is not in host memory (on a GPU, in another process): functions move its bytes. In a file it is
 * as one of ckpt_model_add(). Nothing has changed after a failure.
 *
 * @param path, dtype, rank, shape  as in ckpt_model_add()
 * @param fetch        gives the bytes to a save; not NULL
 * @param put_or_null  takes the bytes of a load; NULL: the tensor can be saved, not loaded into (CKPT_E_UNSUPPORTED)
 * @param user         what both functions get. Like them it has to live until the model is freed and no save of it
 *                     is under way in the background any more: ckpt_model_own() can see to that.
 */
enum ckpt_status ckpt_model_add_source(struct ckpt_model *model,
                                       const char *path,
                                       ckpt_dtype dtype,
                                       size_t rank,
                                       const int64_t *shape,
                                       ckpt_fetch_fn fetch,
                                       ckpt_put_fn put_or_null,
                                       void *user);

/**
 * Has a fence stand around every save and load of the model from now on. Of several, those that came first begin first and
 * end last; what one of them refuses is over for all of them.
 *
 * In a process that is ending none is called in the background any more.
 *
 * @param fence  not NULL
 * @param user   what the function gets; as in ckpt_model_add_source()
 */
enum ckpt_status ckpt_model_add_fence(struct ckpt_model *model,
                                      ckpt_fence_fn fence,
                                      void *user);

/**
 * Hands something over to a model: what the `user` of its sources and fences points to, for example. It is released, once,
 * when the model has been freed and no save of it is under way in the background any more; on whatever thread that is,
 * and before ckpt_wait_buffers() returns. Not called in the background of a process that is ending. Nothing has changed
 * after a failure, and nothing is released.
 *
 * @param key_or_null  UTF-8, copied: a name by which ckpt_model_owned() finds it, unique in the model
 *                     (CKPT_E_INVALID_ARGUMENT); NULL: nobody has to
 * @param release      not NULL
 * @param user         what the function gets
 */
enum ckpt_status ckpt_model_own(struct ckpt_model *model,
                                const char *key_or_null,
                                ckpt_release_fn release,
                                void *user);

/**
 * Finds what was handed over to a model under a key; CKPT_E_NOT_FOUND where nothing was.
 *
 * @param key  UTF-8
 * @param out  not NULL; receives the `user` of ckpt_model_own(); untouched on failure
 */
enum ckpt_status ckpt_model_owned(const struct ckpt_model *model, const char *key, void **out);

/**
 * Opens a checkpoint, written by this library, Keras, or whoever else writes one of its formats: .keras,
 * .weights.h5, a legacy .h5, the index .weights.json of several files, .safetensors, and the index
 * model.safetensors.index.json. What it is, its content says. *out is to be freed with ckpt_reader_free().
 *
 * The files stay open, and what a save puts into their place later does not change this reader.
 * CKPT_E_NOT_FOUND where there is none; CKPT_E_FORMAT where it is damaged or something else.
 *
 * @param path  UTF-8
 * @param out   not NULL; untouched on failure
 */
enum ckpt_status ckpt_reader_open(const char *path, struct ckpt_reader **out);

/**
 * As ckpt_reader_open().
 *
 * @param path   UTF-8
 * @param flags  ckpt_open_flags
 * @param out    not NULL; untouched on failure
 */
enum ckpt_status ckpt_reader_open_flags(const char *path, uint32_t flags, struct ckpt_reader **out);

/**
 * Closes a checkpoint; NULL is fine.
 */
void ckpt_reader_free(struct ckpt_reader *reader);

/**
 * How many tensors there are; 0 for NULL. What this library keeps in "/libckpt" is not among them.
 */
size_t ckpt_reader_len(const struct ckpt_reader *reader);

/**
 * Finds a tensor by its path; its index is below ckpt_reader_len(). CKPT_E_NOT_FOUND where there is none.
 */
enum ckpt_status ckpt_reader_find(const struct ckpt_reader *reader, const char *path, size_t *index);

/**
 * Tells what a tensor is.
 *
 * @param index  below ckpt_reader_len()
 * @param out    not NULL; untouched on failure
 */
enum ckpt_status ckpt_reader_tensor(const struct ckpt_reader *reader,
                                    size_t index,
                                    struct ckpt_tensor_info *out);

/**
 * Reads a tensor, row-major, and verifies its checksum where the file has one (CKPT_E_FORMAT).
 *
 * @param index      below ckpt_reader_len()
 * @param dst        the caller's memory; NULL is fine for a tensor without elements. After a failure its content
 *                   is not defined.
 * @param dst_bytes  the size of dst: exactly the tensor's nbytes, else CKPT_E_MISMATCH
 */
enum ckpt_status ckpt_reader_read(const struct ckpt_reader *reader,
                                  size_t index,
                                  void *dst,
                                  size_t dst_bytes);

/**
 * Reads all tensors and compares them with their checksums: CKPT_E_FORMAT names the first that differs. Tensors
 * without a checksum (Keras writes none) are skipped.
 */
enum ckpt_status ckpt_reader_verify(const struct ckpt_reader *reader);

/**
 * The model's configuration, JSON: what ckpt_model_set_config() was given, and Keras' model.to_json() gives.
 * CKPT_E_NOT_FOUND where the file has none.
 *
 * @param out  not NULL; *out is valid while the reader lives; untouched on failure
 */
enum ckpt_status ckpt_reader_config(const struct ckpt_reader *reader, const char **out);

/**
 * What the file says of itself, JSON: "keras_version" and "date_saved" of a .keras file, and what the other formats
 * have of it (ckpt_model_set_metadata()). CKPT_E_NOT_FOUND where it says nothing.
 *
 * @param out  not NULL; *out is valid while the reader lives; untouched on failure
 */
enum ckpt_status ckpt_reader_metadata(const struct ckpt_reader *reader,
                                      const char **out);

/**
 * The training state that this library has put into the file, JSON: the event of the save, its metrics, the best.
 * CKPT_E_NOT_FOUND where there is none (another program wrote the file), CKPT_E_FORMAT where it is damaged.
 *
 * @param out  not NULL; *out is valid while the reader lives; untouched on failure
 */
enum ckpt_status ckpt_reader_state(const struct ckpt_reader *reader,
                                   const char **out);

/**
 * Keras' name of a group: what ckpt_model_set_name() was given. CKPT_E_NOT_FOUND where it has none.
 *
 * @param group  as in ckpt_model_set_name(): "layers/dense", "" for the root
 * @param out    not NULL; *out is valid while the reader lives; untouched on failure
 */
enum ckpt_status ckpt_reader_name(const struct ckpt_reader *reader, const char *group, const char **out);

/**
 * How many groups have a name; 0 for NULL.
 */
size_t ckpt_reader_groups_len(const struct ckpt_reader *reader);

/**
 * Tells a group that has a name, and that name; both are valid while the reader lives.
 *
 * @param index  below ckpt_reader_groups_len(); sorted by group
 * @param group  not NULL; untouched on failure
 * @param name   not NULL; untouched on failure
 */
enum ckpt_status ckpt_reader_group(const struct ckpt_reader *reader,
                                   size_t index,
                                   const char **group,
                                   const char **name);

/**
 * How many assets a .keras file has; 0 for other files, and for NULL.
 */
size_t ckpt_reader_assets_len(const struct ckpt_reader *reader);

/**
 * The name of an asset, as in ckpt_model_set_asset().
 *
 * @param index  below ckpt_reader_assets_len()
 * @param out    not NULL; *out is valid while the reader lives; untouched on failure
 */
enum ckpt_status ckpt_reader_asset_name(const struct ckpt_reader *reader, size_t index, const char **out);

/**
 * Reads an asset, and verifies its checksum (CKPT_E_FORMAT). CKPT_E_NOT_FOUND where there is none of that name.
 *
 * @param name   as ckpt_reader_asset_name() gives it
 * @param bytes  not NULL; *bytes is valid while the reader lives, which keeps it in memory; untouched on failure
 * @param n      not NULL; how many bytes there are; untouched on failure
 */
enum ckpt_status ckpt_reader_asset(const struct ckpt_reader *reader,
                                   const char *name,
                                   const void **bytes,
                                   size_t *n);

/**
 * Fills every tensor of a model, in parallel, and verifies the checksums where the file has them (CKPT_E_FORMAT).
 *
 * Names, dtypes and shapes are compared first: the file has to hold every tensor of the model, else
 * CKPT_E_MISMATCH, and nothing is touched; a tensor with a stride of 0, or strides that overlap, or without a put
 * function, is CKPT_E_UNSUPPORTED. What else the file holds is ignored. After a later failure the content of the
 * model's tensors is not defined.
 */
enum ckpt_status ckpt_reader_load(const struct ckpt_reader *reader,
                                  struct ckpt_model *model);

/**
 * As ckpt_reader_load(), where the file and the model need not be equal. ckpt_model_skipped() tells afterwards which
 * tensors were left as they were, and why.
 *
 * @param flags           ckpt_load_flags
 * @param renames         n_renames parts of the model that are called otherwise in the file; NULL is fine where
 *                        n_renames is 0. Of those that fit a path, the one with the longest model_prefix counts; a
 *                        model_prefix that is given twice is CKPT_E_INVALID_ARGUMENT. Several tensors of the model
 *                        may come from one of the file.
 * @param loaded_or_null  receives how many tensors were loaded; untouched on failure
 */
enum ckpt_status ckpt_reader_load_flags(const struct ckpt_reader *reader,
                                        struct ckpt_model *model,
                                        uint32_t flags,
                                        const struct ckpt_rename *renames,
                                        size_t n_renames,
                                        size_t *loaded_or_null);

/**
 * Resumes a training: loads the newest whole checkpoint that the template could have written into the model, and goes
 * on as the session that saved it. To be called before the first epoch; waits for saves that are being made, and tells
 * of a failure as ckpt_wait() does.
 *
 * The newest is the one with the largest save counter inside; names, epochs and times do not count. What has the stable
 * name of ckpt_options_set_save_last() is one of them, where it is of the same training or template. One that is damaged
 * is passed over with a warning in the log, and the next is taken; the tensors that are loaded are compared with
 * their checksums. Then:
 *
 * - the policy is what it was after that save: the best value, the batches since the last save, the epoch. The decisions
 *   that follow are those of a training that was not interrupted;
 * - the checkpoints of the same training that stand are the session's own: the keep_* rules count them, and what they
 *   would have removed by then goes; ckpt_best_path() knows them. Files of other trainings stay;
 * - what ckpt_set_state() had set at that save is back.
 *
 * A file of Keras' has nothing of that: its values are loaded, and the policy is that of a new session.
 *
 * CKPT_E_NOT_FOUND where there is no checkpoint, and nothing has changed: so a first run begins. CKPT_E_FORMAT where none
 * is whole; CKPT_E_MISMATCH where the newest does not fit the model (then its tensors are untouched). After other errors
 * the model may hold anything, and the session is as it was. CKPT_E_STATE as ckpt_wait() has it.
 *
 * @param session  any thread may call; one that saves at the same time gets what it gets
 * @param model    its tensors are written; as for ckpt_reader_load()
 * @param out      not NULL; untouched on failure
 */
enum ckpt_status ckpt_resume(struct ckpt *session,
                             struct ckpt_model *model,
                             struct ckpt_resume_info *out);

/**
 * Sets bytes of the trainer's own, any number of them: the state of its random numbers, the data's position, a
 * learning-rate schedule. Every save that is begun from now on has them, committed with the tensors; ckpt_resume() brings
 * them back. In a .safetensors file they are tensors of uint8 called "libckpt/data/KEY", which other programs see.
 *
 * A new size has the next save compute the model's layout anew; new bytes of the same size cost their copy.
 *
 * @param key    UTF-8, 1 to 1024 bytes; what was set under it is replaced
 * @param bytes  copied before the call returns; may be NULL if n is 0
 * @param n      bytes; none are a state, too
 */
enum ckpt_status ckpt_set_state(struct ckpt *session,
                                const char *key,
                                const void *bytes,
                                size_t n);

/**
 * The bytes that ckpt_set_state() set under a key, or, after ckpt_resume(), those in the checkpoint. CKPT_E_NOT_FOUND
 * where there are none: the message lists the keys.
 *
 * @param key    UTF-8
 * @param bytes  not NULL; *bytes is not NULL, valid until ckpt_resume(), ckpt_free() or, of the same key,
 *               ckpt_set_state(); untouched on failure
 * @param n      not NULL; how many; untouched on failure
 */
enum ckpt_status ckpt_get_state(const struct ckpt *session,
                                const char *key,
                                const void **bytes,
                                size_t *n);

/**
 * Writes a checkpoint anew in another format, or in the same: the tensors, and of Keras' names, the configuration,
 * the assets, and the training state what the new format has room for. Damaged tensors are CKPT_E_FORMAT. The tensors
 * pass through a few MiB of memory, those that are chunked or filtered one at a time. What src holds and no dtype here
 * can (text, float8) is CKPT_E_UNSUPPORTED, rather than lost.
 *
 * @param src  what ckpt_reader_open() opens
 * @param dst  its ending says what it is, as in ckpt_model_save(); it may be src, and is replaced as a whole or not at
 *             all. CKPT_E_STATE where it needs a configuration and src has none.
 */
enum ckpt_status ckpt_convert(const char *src,
                              const char *dst);

/**
 * Makes a Sequential model without layers; *out is to be freed with ckpt_keras_free().
 *
 * @param out  not NULL; untouched on failure
 */
enum ckpt_status ckpt_keras_new(struct ckpt_keras **out);

/**
 * Frees a builder, not its buffers, nor the models it has made; NULL is fine.
 */
void ckpt_keras_free(struct ckpt_keras *keras);

/**
 * Adds a layer behind the last one. The first is the input: class "InputLayer", with "shape" (of one sample, null where
 * an axis may have any size) and, if wanted, "batch_size", "dtype" and "name". Nothing has changed after a failure.
 *
 * The layers are Dense, Conv1D, Conv2D, DepthwiseConv2D, MaxPooling1D, MaxPooling2D, AveragePooling1D,
 * AveragePooling2D, GlobalAveragePooling1D, GlobalAveragePooling2D, ZeroPadding1D, ZeroPadding2D, Flatten, Reshape,
 * Permute, Dropout, BatchNormalization, LayerNormalization, Embedding, LSTM, GRU, Activation, ReLU and Softmax; another
 * class is CKPT_E_UNSUPPORTED.
 *
 * @param class_name   Keras' class
 * @param config_json  an object with the arguments of the class, under Keras' names and with Keras' defaults, as in
 *                     {"units": 10, "activation": "relu"}; every layer has "name", "trainable" and "dtype", too. What is
 *                     missing, unknown, or no value that Keras takes is CKPT_E_INVALID_ARGUMENT, and so is a layer that does not fit
 *                     what the one before it gives; the message names the argument and what it can be.
 * @param layer        the layer's number, for ckpt_keras_bind(): 0 is the input; untouched on failure
 */
enum ckpt_status ckpt_keras_add(struct ckpt_keras *keras,
                                const char *class_name,
                                const char *config_json,
                                size_t *layer_or_null);

/**
 * Tells what a variable of a layer is. The pointers in *out are valid until the next call of this function, or the
 * builder's end.
 *
 * @param layer     the number of a layer
 * @param variable  Keras' name of it: "kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance", "embeddings",
 *                  "recurrent_kernel"; CKPT_E_NOT_FOUND, with those that there are, for another one
 * @param out       not NULL; untouched on failure
 */
enum ckpt_status ckpt_keras_variable(struct ckpt_keras *keras,
                                     size_t layer,
                                     const char *variable,
                                     struct ckpt_tensor_info *out);

/**
 * Says where a variable of a layer is. A further call for the same variable replaces the buffer.
 *
 * @param layer     the number of a layer
 * @param variable  as in ckpt_keras_variable()
 * @param dtype     of the elements; CKPT_E_MISMATCH if it is not that of the variable, which is CKPT_DTYPE_F32 unless the
 *                  layer's "dtype" says otherwise
 * @param strides   a distance for each axis of the variable's shape, which ckpt_keras_variable() tells, as in
 *                  ckpt_model_add(); NULL: row-major
 * @param data      the buffer, borrowed as in ckpt_model_add(), by the builder and by the models it makes
 */
enum ckpt_status ckpt_keras_bind(struct ckpt_keras *keras,
                                 size_t layer,
                                 const char *variable,
                                 ckpt_dtype dtype,
                                 const int64_t *strides_or_null,
                                 void *data);

/**
 * Says that a variable of a layer is not in host memory, or not as Keras has it: functions move its bytes, which are those of
 * the shape that ckpt_keras_variable() tells, row-major. A further call, or ckpt_keras_bind(), replaces them.
 *
 * @param layer        the number of a layer
 * @param variable     as in ckpt_keras_variable()
 * @param dtype        as in ckpt_keras_bind()
 * @param fetch        as in ckpt_model_add_source()
 * @param put_or_null  as in ckpt_model_add_source()
 * @param user         as in ckpt_model_add_source()
 */
enum ckpt_status ckpt_keras_bind_source(struct ckpt_keras *keras,
                                        size_t layer,
                                        const char *variable,
                                        ckpt_dtype dtype,
                                        ckpt_fetch_fn fetch,
                                        ckpt_put_fn put_or_null,
                                        void *user);

/**
 * Compiles the model, so that Keras can go on training it: with an optimizer, and a loss. Replaces an earlier optimizer,
 * and what was bound to it.
 *
 * @param optimizer_class  "SGD", "RMSprop", "Adam" or "AdamW"; CKPT_E_UNSUPPORTED for another one
 * @param config_json      an object with the arguments of the optimizer and those of Keras' compile(), under Keras' names
 *                         and with Keras' defaults, as in {"learning_rate": 0.01, "loss": "mse", "metrics": ["mae"]};
 *                         "learning_rate" is a number
 */
enum ckpt_status ckpt_keras_compile(struct ckpt_keras *keras,
                                    const char *optimizer_class,
                                    const char *config_json);

/**
 * Says where a part of the optimizer's state is. Where one part is bound, all are to be, but for "learning_rate", which is that
 * of ckpt_keras_compile() then; where none is, Keras begins with a new state.
 *
 * @param slot      "iteration" (an integer, CKPT_DTYPE_I32 or CKPT_DTYPE_I64: the batches so far, also
 *                  those whose gradients are only accumulated) and "learning_rate", of the
 *                  optimizer itself; and of each trainable variable, with its shape and dtype: of SGD "momentum" (with a
 *                  momentum); of RMSprop "velocity", "momentum" (with a momentum) and "average_gradient" (centered); of
 *                  Adam and AdamW "momentum", "velocity" and "velocity_hat" (amsgrad); of all "average" (use_ema) and
 *                  "gradient_accumulator" (gradient_accumulation_steps). CKPT_E_NOT_FOUND, with those that there are, for
 *                  another one
 * @param layer     the number of the layer; of "iteration" and "learning_rate" not looked at
 * @param variable  the layer's variable; of those two not looked at, and may be NULL
 * @param dtype     as in ckpt_keras_bind()
 * @param strides   as in ckpt_keras_bind()
 * @param data      as in ckpt_keras_bind()
 */
enum ckpt_status ckpt_keras_bind_optimizer(struct ckpt_keras *keras,
                                           const char *slot,
                                           size_t layer,
                                           const char *variable_or_null,
                                           ckpt_dtype dtype,
                                           const int64_t *strides_or_null,
                                           void *data);

/**
 * Makes a model of what was added and bound: with the tensors, the names and the configuration that Keras needs to load
 * it. A new one, the caller's to free with ckpt_model_free(); the builder may go, or be added to for the next one.
 *
 * CKPT_E_STATE, with the layer and the variable, where one is not bound.
 *
 * @param out  not NULL; untouched on failure
 */
enum ckpt_status ckpt_keras_model(const struct ckpt_keras *keras,
                                  struct ckpt_model **out);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* CKPT_H */
