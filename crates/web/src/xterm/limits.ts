// Limits of the xterm binding.

/** More than this the server does not keep for replay (OUTPUT_BUFFER, 1 MiB by default). */
export const OUTPUT_BUFFER_MAX = 1024 * 1024;
