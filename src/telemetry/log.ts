/**
 * The log: JSON lines on stdout.
 *
 * Owns their shape. What is logged is chosen field by field where it is logged, so there is nothing here that hides
 * secrets: none may get this far. Errors are logged with their causes' messages.
 */
import { type Logger, pino } from 'pino';

export type { Logger } from 'pino';

/** A logger from this level on. */
export function createLog(level: string, release: string): Logger {
  return pino({
    level,
    base: { release },
    timestamp: pino.stdTimeFunctions.isoTime,
    formatters: { level: (label) => ({ level: label }) },
    serializers: { err: pino.stdSerializers.errWithCause },
  });
}
