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
import { type Logger, pino } from 'pino';
import { LineWriter } from './line-writer.ts';

export type { Logger } from 'pino';

/** A logger from this level on. */
export function createLog(level: string, release: string): Logger {
  // Of a pipe or a socket Node makes one that never blocks, once this is asked for.
  const { fd } = process.stdout;
  const destination = new LineWriter(fd, (lines) =>
    log.warn({ lines }, 'cannot write log lines: they are lost'),
  );
  process.once('exit', () => destination.flushSync());
  const options = {
    level,
    base: { release },
    timestamp: pino.stdTimeFunctions.isoTime,
    formatters: { level: (label: string) => ({ level: label }) },
    serializers: { err: pino.stdSerializers.errWithCause },
  };
  const log = pino(options, destination);
  return log;
}
