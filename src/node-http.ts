/**
 * `node:http`, for what is no type. Node reads all that a module has when it is imported, and for
 * `WebSocket` of this one loads its `fetch`: 50 ms, and 14 MB of a process that does nothing else.
 * Asked for by its name it is loaded alone.
 */
export const { createServer, request } = process.getBuiltinModule('node:http');
