/**
 * The log: JSON lines on stdout.
 *
 * Lines are written together, 4 KiB or a tenth of a second at a time: one write for each costs more than making it. What
 * ends the process in order, or by an exception, writes the rest first; a kill -9 loses that tenth of a second, which is
 * why nothing that must not be lost is left to the log. Owns their shape. What is logged is chosen field by field where it is logged, so there is nothing here that hides
 * secrets: none may get this far. Errors are logged with their causes' messages.
 */
import { type Logger, pino } from 'pino';

export type { Logger } from 'pino';

const TOGETHER_BYTES = 4_096;
const TOGETHER_MS = 100;

/** A logger from this level on. */
export function createLog(level: string, release: string): Logger {
  const destination = pino.destination({
    sync: false,
    minLength: TOGETHER_BYTES,
    periodicFlush: TOGETHER_MS,
  });
  process.once('exit', () => destination.flushSync());
  const options = {
    level,
    base: { release },
    timestamp: pino.stdTimeFunctions.isoTime,
    formatters: { level: (label: string) => ({ level: label }) },
    serializers: { err: pino.stdSerializers.errWithCause },
  };
  return pino(options, destination);
}
