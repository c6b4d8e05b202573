/**
 * The moments at which a replica looks for due work: those of a cron expression.
 *
 * node-cron says when the next one is; it is waited for here. Its own timer waits for a moment of
 * the clock: a clock that is set back holds it up for as long, and one that is set ahead has it
 * write a line for each moment that was passed over (measured). Here the clock is asked again at
 * least once in {@link LONGEST_WAIT_MS}, and a moment that has passed is one tick.
 */
import { createTask } from 'node-cron';

const LONGEST_WAIT_MS = 10_000;

/**
 * Calls `onTick` at each moment of the expression, up to `jitterMs` later. Returns what ends it.
 */
export function startTicks(expression: string, jitterMs: number, onTick: () => void): () => void {
  const nextAfterNow = nextMoments(expression);
  let next = nextAfterNow();
  let timer: NodeJS.Timeout | undefined;
  const late = new Set<NodeJS.Timeout>();
  const tick = () => {
    const delayed = setTimeout(() => {
      late.delete(delayed);
      onTick();
    }, Math.random() * jitterMs);
    late.add(delayed);
  };
  const wait = () => {
    timer = setTimeout(
      () => {
        if (Date.now() >= next) tick();
        next = nextAfterNow();
        wait();
      },
      Math.min(Math.max(next - Date.now(), 1), LONGEST_WAIT_MS),
    );
  };
  wait();
  return () => {
    clearTimeout(timer);
    for (const delayed of late) clearTimeout(delayed);
  };
}

/** Returns what says when the next moment is. Throws for an expression that has none. */
export function nextMoments(expression: string): () => number {
  const task = createTask(expression, () => {});
  const next = () => {
    const [moment] = task.getNextRuns(1);
    if (moment === undefined) throw new RangeError('a cron expression without a next moment');
    return moment.getTime();
  };
  next();
  return next;
}
