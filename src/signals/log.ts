/**
 * The log: JSON lines on stdout.
 *
 * Lines are written together (`line-writer.ts`): one write for each costs more than making it. What
 * ends the process in order, or by an exception, writes the rest first; a kill -9 loses the last
 * tenth of a second, and a full disk or a reader that is gone loses lines rather than the service,
 * which is why nothing that must not be lost is left to the log. Owns their shape. What is logged
 * is chosen field by field where it is logged, so there is nothing here that hides secrets: none
 * may get this far. Errors are logged with their causes' messages.
 */
import { constants, fstatSync, openSync } from 'node:fs';
import { type Logger, pino } from 'pino';
import { LineWriter } from './line-writer.ts';
import { PIECE_BYTES, shortLine } from './short-line.ts';

export type { Logger } from 'pino';

/**
 * Returns a logger from this level on. `onLost` hears how many lines were lost. `processName` is of
 * one of several processes that write to the same stdout.
 */
export function createLog(
  level: string,
  release: string,
  onLost: (lines: number) => void,
  processName?: string,
): Logger {
  const isShared = processName !== undefined;
  const destination = new LineWriter(
    unblockingStdout(),
    onLost,
    isShared ? PIECE_BYTES : undefined,
  );
  process.once('exit', () => destination.flushSync());
  const options = {
    level,
    base: { release, ...(isShared && { process: processName }) },
    timestamp: isoTime,
    formatters: { level: (label: string) => ({ level: label }) },
    serializers: { err: pino.stdSerializers.errWithCause },
  };
  if (!isShared) return pino(options, destination);
  return pino(options, { write: (line) => destination.write(shortLine(line)) });
}

let lastTime = { at: 0, text: '' };

/** As pino's own, which makes the text of the same millisecond again for every line. */
function isoTime(): string {
  const at = Date.now();
  if (at !== lastTime.at) lastTime = { at, text: `,"time":"${new Date(at).toISOString()}"` };
  return lastTime.text;
}

/**
 * Returns a descriptor of stdout that never blocks. Of a pipe or a terminal it is opened anew:
 * another process that has the same one may make that block again at any time.
 */
function unblockingStdout(): number {
  // Node makes pipes and sockets non-blocking, once this is asked for.
  const { fd } = process.stdout;
  const status = fstatSync(fd);
  if (!status.isFIFO() && !status.isCharacterDevice()) return fd;
  try {
    const { O_WRONLY, O_NONBLOCK, O_NOCTTY } = constants;
    return openSync(`/proc/self/fd/${fd}`, O_WRONLY | O_NONBLOCK | O_NOCTTY);
  } catch {
    return fd; // Another user's, as a container's may be.
  }
}
