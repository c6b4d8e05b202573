/**
 * The HSM agent: a process of its own, the only one that loads the PKCS#11 library and reads the
 * PIN.
 *
 * Reads requests from descriptor 3, does them one after another, writes replies. Ends when the
 * stream does, and after any PKCS#11 error once it has said so: recovery is a new process. Every
 * request gets one reply unless the process dies, as it does of what was not foreseen. Writes to
 * stderr only what holds no secret. Frames are zeroed once they are done with: they hold plaintext.
 */
import { writeSync } from 'node:fs';
import { Socket } from 'node:net';
import { monotonicNow } from '../../call.ts';
import { KeywardError } from '../../errors.ts';
import {
  decodeRequest,
  decodeWarrant,
  ENDING_FAILURES,
  EXIT_AFTER_FAILURE,
  encodeFailure,
  encodeReply,
  type Failure,
  frameReader,
  type MoveSettings,
  type OperationName,
  pagesOf,
  type ReplyOf,
  type RequestFrame,
  type RequestOf,
  readRequest,
} from '../protocol.ts';
import type { TokenIdentity, TokenObject } from '../token-profile.ts';
import { decide } from './approvals.ts';
import { requireTokenKey } from './approved-changes.ts';
import { AuditOperations } from './audit.ts';
import { AgentFailure, toFailure } from './failure.ts';
import { requireAllowed } from './given.ts';
import { GuardedSeals } from './guarded-seals.ts';
import { KeyOperations } from './operations.ts';
import { offerOf, probe, requireMechanisms } from './probe.ts';
import { report } from './report.ts';
import { RULE_VARIABLE, readRule, reportOf } from './rule.ts';
import { identifyToken, type OpenToken, openToken } from './token.ts';
import {
  createMissing,
  createObject,
  destroyObjects,
  refuseForeignObjects,
  survey,
  takeAllObjects,
  takeObjects,
} from './token-objects.ts';
import { MoveSource, MoveTarget } from './transport.ts';
import { requireApproved } from './warrant.ts';

/** Answers wait at most this long for others to be written with. */
const FLUSH_MS = 1;
/** The exit status after a failure that was not foreseen. */
const EXIT_UNFORESEEN = 70;
const STDERR = 2;

/** The rule that this agent holds, or why it has none and does nothing. */
const held = attempted(() => readRule(process.env[RULE_VARIABLE]));

/** What moves key versions, in an agent that was opened for that. */
let moving: { readonly source: MoveSource } | { readonly target: MoveTarget } | undefined;

/** How often each operation was worked on, and for how many seconds in all. */
const worked: Partial<Record<OperationName, { count: number; seconds: number }>> = {};

type Handlers = { [Name in OperationName]: (request: RequestOf<Name>) => ReplyOf<Name> };

/** What serves, once it does. */
let opened:
  | {
      readonly token: OpenToken;
      readonly settings: RequestOf<'start'>;
      readonly operations: KeyOperations;
      readonly guarded: GuardedSeals;
      readonly audit: AuditOperations;
    }
  | undefined;

const handlers: Handlers = {
  start: (settings) => {
    requireUnopened();
    const token = openToken({ despiteFailedTry: settings.despiteFailedTry });
    requireMechanisms(token.slot, settings.profile.wrapMechanism);
    const { objects, findings, ...taken } = takeAllObjects(
      token.session,
      settings,
      settings.objects,
    );
    const operations = new KeyOperations(token.session, settings, objects);
    operations.prove();
    const rule = ruleHeld();
    const { environmentId } = settings;
    opened = {
      token,
      settings,
      operations,
      guarded: new GuardedSeals({ seals: operations, environmentId, rule }),
      audit: new AuditOperations(token.session, settings, objects),
    };
    return {
      module: token.module,
      token: token.label,
      serialNumber: token.serialNumber,
      findings: findings.filter(({ state }) => state !== 'enforced'),
      ...taken,
      ...(rule === undefined ? {} : { rule: reportOf(rule) }),
    };
  },
  initializeToken: (settings) => {
    if ((settings.recorded ?? []).length === 0) requireNoRule('make a token’s first keys');
    const token = openToken({ write: true });
    const { recorded = [] } = settings;
    const profile = probe(token.slot);
    const measure = { environmentId: settings.environmentId, profile };
    // A token that lacks one has lost it, or is another: a new one in its place would open nothing
    // that there is.
    if (recorded.length > 0) {
      takeAllObjects(token.session, measure, recorded);
      return { profile, objects: recorded, ...identityOf(token) };
    }
    const objects = createMissing(token.session, settings.environmentId, profile);
    takeAllObjects(token.session, measure, objects);
    return { profile, objects, ...identityOf(token) };
  },
  createTokenKey: (settings) => {
    const rule = ruleHeld();
    if (rule !== undefined && rule.approvals.tokenKeys > 0) {
      const { environmentId, warrant } = settings;
      const shown = warrant === undefined ? undefined : decodeWarrant(warrant);
      requireTokenKey(requireApproved('tokenKeys', shown, { rule, environmentId }), settings);
    }
    createObject(openToken({ write: true }).session, settings, settings);
    return {};
  },
  destroyTokenKeys: (settings) => {
    requireNoRule('destroy a token’s keys');
    const { session } = openToken({ write: true });
    return { destroyed: destroyObjects(session, settings.environmentId, settings.objects) };
  },
  createKeyVersion: (request) => serving().operations.createKeyVersion(request),
  seal: (request) => serving().operations.seal(request),
  open: (request) => serving().operations.open(request),
  issueDataKey: (request) => serving().operations.issueDataKey(request),
  reseal: (request) => serving().operations.reseal(request),
  sealAll: (request) => serving().operations.sealAll(request),
  openAll: (request) => serving().operations.openAll(request),
  issueDataKeys: (request) => serving().operations.issueDataKeys(request),
  resealAll: (request) => serving().operations.resealAll(request),
  rewrap: (request) => serving().operations.rewrap(request),
  transfer: (request) => serving().operations.transfer(request),
  sealRecords: (request) => serving().guarded.sealRecords(request),
  verifyRecords: (request) => serving().guarded.verifyRecords(request),
  resealRecords: (request) => serving().guarded.resealRecords(request),
  sealPolicyChange: (request) => serving().guarded.sealPolicyChange(request),
  sealRecordChange: (request) => serving().guarded.sealRecordChange(request),
  nameTenant: (request) => serving().guarded.nameTenant(request),
  decide: (request) => decide(request, serving().operations, serving().settings.environmentId),
  hold: (request) => {
    const { token, settings, operations, audit } = serving();
    // An agent that serves isn't ended for what a new one would be refused for.
    const sought = request.objects.map(
      (object): TokenObject => ({ ...object, presence: object.presence ?? 'expected' }),
    );
    const { objects, problems } = takeObjects(token.session, settings, sought);
    const wanted = sought.filter(({ presence }) => presence === 'expected');
    const held = operations.hold(objects, new Set(wanted.map(({ objectId }) => objectId)));
    audit.hold(held);
    return { held: held.map(({ objectId }) => objectId), problems };
  },
  deriveMaskKey: (request) => serving().audit.deriveMaskKey(request),
  deriveWriterKey: (request) => serving().audit.deriveWriterKey(request),
  signCheckpoint: (request) => serving().audit.signCheckpoint(request),
  readKeptCheckpoint: () => serving().audit.readKeptCheckpoint(),
  signResumption: (settings) => {
    requireUnopened();
    requireNoRule('resume the log');
    const { session } = openToken();
    const { objects } = takeObjects(session, settings, settings.objects);
    return new AuditOperations(session, settings, objects).signResumption(settings);
  },
  readAuditKey: () => serving().audit.readAuditKey(),
  keepCheckpoint: (settings) => {
    requireUnopened();
    const { despiteFailedTry } = settings;
    const { session } = openToken({ write: true, despiteFailedTry });
    const { objects } = takeObjects(session, settings, settings.objects);
    new AuditOperations(session, settings, objects).keepCheckpoint(settings);
    return {};
  },
  forget: (request) => serving().operations.forget(request),
  forgetEpochs: (request) => serving().operations.forgetEpochs(request),
  measure: () => {
    const { keysLoaded, epochsKept } = serving().operations;
    return { keysLoaded, epochsKept, operations: worked };
  },
  random: (request) => serving().operations.random(request),
  report: ({ objects }) => report(serving().token, serving().settings, objects),
  inspectToken: (settings) => {
    const token = openToken({ despiteFailedTry: settings.despiteFailedTry });
    return report(token, settings, settings.objects);
  },
  identifyToken,
  surveyToken: (settings) => {
    const token = openToken();
    const { objects, unrecorded } = survey(token.session, settings.environmentId, settings.objects);
    return {
      ...identityOf(token),
      module: token.module,
      ...offerOf(token.slot),
      objects: objects.map(({ handle: _, ...object }) => object),
      unrecorded,
    };
  },
  probeToken: (settings) => {
    const token = openToken({ write: true });
    refuseForeignObjects(token.session, settings.environmentId);
    return { profile: probe(token.slot) };
  },
  openMoveTarget: (settings) => {
    const { token, objects } = openToMove(settings);
    const target = new MoveTarget(token, settings, objects);
    moving = { target };
    return target.offer;
  },
  openMoveSource: (settings) => {
    const { token, objects } = openToMove(settings);
    const source = new MoveSource(token, settings, objects);
    moving = { source };
    return source.choice;
  },
  acceptTransport: (choice) => {
    moveTarget().accept(choice);
    return {};
  },
  exportKeyVersions: (request) => moveSource().export(request),
  importKeyVersions: (request) => moveTarget().import(request),
};

function identityOf({ label, serialNumber }: OpenToken): TokenIdentity {
  return { label, serialNumber };
}

/**
 * An agent does one thing in its life: what serves never moves anything, and what moves never
 * serves.
 */
function requireUnopened(): void {
  if (opened !== undefined || moving !== undefined)
    throw new Error('an agent that is opened already');
}

function openToMove(settings: MoveSettings) {
  requireUnopened();
  requireNoRule('move key versions to another token');
  const token = openToken();
  requireMechanisms(token.slot, settings.profile.wrapMechanism);
  return { token, objects: takeAllObjects(token.session, settings, settings.objects).objects };
}

/** Throws `refused` for a rule that cannot be used: then the agent does nothing at all. */
function ruleHeld() {
  if ('failure' in held) throw held.failure;
  return held.value;
}

/** What only an operator's command does, nobody approves: it runs beside the rule, or not. */
function requireNoRule(what: string): void {
  if (ruleHeld() === undefined) return;
  throw new AgentFailure(
    'refused',
    `cannot ${what}: this agent holds a rule; run the command in an environment without ` +
      RULE_VARIABLE,
  );
}

function attempted<T>(attempt: () => T): { readonly value: T } | { readonly failure: unknown } {
  try {
    return { value: attempt() };
  } catch (failure) {
    return { failure };
  }
}

function moveSource(): MoveSource {
  if (moving === undefined || !('source' in moving))
    throw new Error('an agent that is no source of a move');
  return moving.source;
}

function moveTarget(): MoveTarget {
  if (moving === undefined || !('target' in moving))
    throw new Error('an agent that is no target of a move');
  return moving.target;
}

function serving() {
  if (opened === undefined) throw new Error('an operation before start');
  return opened;
}

function execute<Name extends OperationName>({
  requestId,
  name,
  deadline,
  frame,
}: RequestFrame & { name: Name }): {
  readonly reply: Buffer;
  readonly fatal: boolean;
} {
  if (monotonicNow() > deadline)
    return refuse(requestId, { kind: 'expired', detail: 'past its deadline' });
  const began = performance.now();
  try {
    requireAllowed(name);
    ruleHeld();
    const answer = handlers[name](decodeRequest(name, frame));
    const reply = encodeReply(requestId, name, answer);
    wipe(answer);
    return { reply, fatal: false };
  } catch (error) {
    if (error instanceof KeywardError && error.reason === 'DECRYPTION_FAILED') {
      return refuse(requestId, { kind: 'decryption-failed', detail: '' });
    }
    const { kind, message } = toFailure(error);
    return refuse(requestId, { kind, detail: message });
  } finally {
    noteWork(name, performance.now() - began);
  }
}

/** Overwrites all bytes of an answer. */
function wipe(value: unknown): void {
  if (Buffer.isBuffer(value)) value.fill(0);
  else if (typeof value === 'object' && value !== null)
    for (const part of Object.values(value)) wipe(part);
}

function noteWork(name: OperationName, milliseconds: number): void {
  worked[name] ??= { count: 0, seconds: 0 };
  worked[name].count += 1;
  worked[name].seconds += milliseconds / 1_000;
}

function refuse(requestId: number, failure: Failure) {
  return {
    reply: encodeFailure(requestId, failure),
    fatal: ENDING_FAILURES.includes(failure.kind),
  };
}

function serve(socket: Socket): void {
  let ended = false;
  let flushedAt = 0;
  const read = frameReader((frame) => {
    if (ended) return;
    const { reply, fatal } = execute(readRequest(frame));
    frame.fill(0);
    ended = fatal;
    const pages = pagesOf(reply);
    const last = pages.pop();
    for (const page of pages) socket.write(page);
    socket.write(last ?? reply, () => {
      reply.fill(0);
      if (fatal) process.exit(EXIT_AFTER_FAILURE);
    });
    if (monotonicNow() - flushedAt < FLUSH_MS) return;
    // One chunk can hold more calls than a slow token does in seconds: nobody waits for the others'
    // answers.
    socket.uncork();
    socket.cork();
    flushedAt = monotonicNow();
  });
  socket.on('data', (chunk) => {
    socket.cork();
    flushedAt = monotonicNow();
    read(chunk);
    socket.uncork();
  });
  socket.on('close', () => process.exit(0));
  socket.on('error', () => process.exit(0));
}

/**
 * Ends this process, saying where it failed. Node itself would print what is attached to an error,
 * too.
 */
function failed(thrown: unknown): void {
  try {
    writeSync(
      STDERR,
      thrown instanceof Error ? `${thrown.stack}\n` : `a ${typeof thrown} was thrown\n`,
    );
  } catch {
    // There may be nobody to tell.
  }
  process.exit(EXIT_UNFORESEEN);
}

process.on('uncaughtException', failed);
process.on('unhandledRejection', failed);
// Ctrl-C in a terminal, and its end, reach the whole process group; the server decides when its
// agents end.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => {});
process.title = 'keyward-agent';
serve(new Socket({ fd: 3, readable: true, writable: true }));
