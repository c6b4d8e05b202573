/**
 * Ends a process as soon as something that others can make fail has no listener for its errors.
 * Loaded before a server where its variables are {@link withListenersRequired}.
 *
 * - Every socket, pipe, HTTP/2 session and stream, child process and pool is looked at after the
 *   turn of the event loop that made it, a server after it has begun to listen, a database client
 *   after it has connected: until then they answer to who asked for it. All are looked at again
 *   after a listener for errors was taken from them, and when they fail.
 * - A listener that was added by `once` is none: a second failure would find nothing.
 * - What has closed is left alone.
 *
 * Without it an absence is noticed only where a peer fails at the one moment at which it matters.
 * Knows no test.
 */
import { EventEmitter } from 'node:events';
import { writeSync } from 'node:fs';

/** The exit code of a process that was ended for it. */
export const NO_LISTENER_EXIT = 86;
/** How the line begins that says why. */
export const NO_LISTENER = 'no listener for errors on a ';

const VARIABLE = 'KEYWARD_TEST_LISTENERS';
/** By name: Node keeps the classes of HTTP/2 to itself, and there may be more than one pg. */
const KINDS: ReadonlySet<string> = new Set([
  'ChildProcess',
  'Client', // pg's
  'ClientRequest',
  'Http2Session',
  'Http2Stream',
  'Pool', // pg's
  'Server',
  'Socket',
]);
/** From which event on others can make it fail; others are looked at from the start. */
const FROM: ReadonlyMap<string, string> = new Map([
  ['Client', 'connect'],
  ['Server', 'listening'],
]);
const STACK_LINES = 30;

/** Returns the variables with which a server ends where a listener is missing. */
export function withListenersRequired(
  variables: Readonly<Record<string, string>>,
): Readonly<Record<string, string>> {
  return { ...variables, [VARIABLE]: 'required', NODE_OPTIONS: `--import=${import.meta.url}` };
}

/** Where what is open was made. */
const origins = new WeakMap<EventEmitter, Error>();
/** What others can make fail. */
const exposed = new WeakSet<EventEmitter>();
/** The kinds of what was met so far, by class. */
const kinds = new WeakMap<object, string | null>();

/** Which of {@link KINDS} it is, or what it is made of; null for what is none. */
function kindOf(emitter: EventEmitter): string | null {
  const known = kinds.get(emitter.constructor);
  if (known !== undefined) return known;
  let kind: string | null = null;
  for (
    let each = Object.getPrototypeOf(emitter);
    each !== null;
    each = Object.getPrototypeOf(each)
  ) {
    if (KINDS.has(each.constructor?.name)) kind = each.constructor.name;
  }
  kinds.set(emitter.constructor, kind);
  return kind;
}

/** Ends the process if nothing listens that stays. */
function look(emitter: EventEmitter, when: string): void {
  // What `once` adds is a wrapper, with the function that was given as its `listener`.
  if (!exposed.has(emitter) || emitter.rawListeners('error').some((each) => !('listener' in each)))
    return;
  const trail = origins.get(emitter)?.stack?.split('\n').slice(2).join('\n');
  writeSync(2, `${NO_LISTENER}${emitter.constructor.name}, ${when}; it was made\n${trail}\n`);
  process.exit(NO_LISTENER_EXIT);
}

function lookLater(emitter: EventEmitter, when: string): void {
  setImmediate(look, emitter, when);
}

function expose(emitter: EventEmitter, when: string): void {
  exposed.add(emitter);
  lookLater(emitter, when);
}

/** Looks from an event on, or no more after it. */
function follow(emitter: EventEmitter, event: string): void {
  const kind = kindOf(emitter) ?? '';
  if (event === FROM.get(kind)) expose(emitter, `after '${event}'`);
  if (event === 'close' || (event === 'end' && kind === 'Client')) exposed.delete(emitter);
}

/** Puts the looks into what every emitter of this process is made of. */
function watchEmitters(): void {
  const owner = EventEmitter as unknown as {
    init: (this: EventEmitter, ...options: unknown[]) => void;
  };
  const { init } = owner;
  const { emit, removeListener, removeAllListeners } = EventEmitter.prototype;
  Error.stackTraceLimit = STACK_LINES;

  owner.init = function (...options) {
    init.apply(this, options);
    const kind = kindOf(this);
    if (kind === null) return;
    origins.set(this, new Error('made'));
    if (!FROM.has(kind)) expose(this, 'after the turn in which it was made');
  };
  const removed: typeof removeListener = function (this: EventEmitter, name, listener) {
    if (name === 'error' && exposed.has(this)) lookLater(this, 'after one was taken from it');
    return removeListener.call(this, name, listener);
  };
  Object.assign(EventEmitter.prototype, {
    removeListener: removed,
    off: removed,
    removeAllListeners(this: EventEmitter, ...names: [string?]) {
      if (exposed.has(this)) lookLater(this, 'after all were taken from it');
      return removeAllListeners.apply(this, names);
    },
    emit(this: EventEmitter, name: string, ...values: unknown[]) {
      if (name === 'error') look(this, `as it fails: ${values[0]}`);
      const heard = emit.call(this, name, ...values);
      if (origins.has(this)) follow(this, name);
      return heard;
    },
  });
}

if (process.env[VARIABLE] === 'required') {
  // Made when first asked for: what a process writes to is its operator's, and is not looked at.
  void [process.stdout, process.stderr];
  watchEmitters();
}
