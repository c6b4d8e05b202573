/**
 * What server and agent say to each other: the operations, their records, and the frames on the
 * stream between them.
 *
 * ```
 *  request: u32 length of the rest │ u32 id │ u8 operation │ f64 deadline │ record
 *  reply:   u32 length of the rest │ u32 id │ u8 outcome (0 done, 1 failed) │ record or Failure
 * ```
 *
 * A frame of more than {@link MAX_FRAME_BYTES} travels in pages: `u32 length of the part │ part`,
 * with the highest bit of the length set on all but the last; their parts are the rest of the
 * frame. So what grows with the data (every token key that was ever recorded) has no limit near.
 *
 * The operations are few and whole: each does all of its work in the agent, and plaintext comes
 * back only where a caller is to receive it. Deadlines are CLOCK_MONOTONIC milliseconds; a request
 * past its deadline is not executed. Knows no PKCS#11.
 */
import type { SealedContent, Warrant } from '../call.ts';
import type {
  AnyId,
  EnvironmentId,
  KeyId,
  OperationId,
  RootKeyId,
  SealKeyId,
  TenantId,
} from '../ids.ts';
import {
  bytes,
  decode,
  encode,
  type Field,
  id,
  json,
  list,
  optional,
  struct,
  text,
  time,
  u8,
  u16,
  u32,
} from './codec.ts';
import { sealedKeyVersion } from './key-version.ts';
import type {
  HeldObjects,
  TokenIdentity,
  TokenObject,
  TokenObjectRole,
  TokenPosture,
  TokenProfile,
  TokenReport,
  TokenSurvey,
  TransportChoice,
  TransportOffer,
} from './token-profile.ts';

/** What an agent needs to serve; which token it opens, it was given (`agent-given.ts`). */
export interface ServeSettings {
  readonly environmentId: EnvironmentId;
  readonly profile: TokenProfile;
  readonly objects: readonly TokenObject[];
  /** How many unwrapped key versions the agent keeps as session objects. */
  readonly keyCacheSize: number;
  /**
   * Try the PIN although the token remembers a wrong one: the PIN file has changed, or an operator
   * asks.
   */
  readonly despiteFailedTry: boolean;
  /**
   * Whether the checkpoint that the token keeps stands against signing one that it isn't followed
   * by; not, unless given.
   */
  readonly heedsKeptCheckpoint?: boolean;
}

/** What `initializeToken` needs. */
export interface InitializeSettings {
  readonly environmentId: EnvironmentId;
  /**
   * What the database has recorded before: where it has any, the token must have all, and nothing
   * is made.
   */
  readonly recorded?: readonly TokenObject[];
}

/** What `createTokenKey` needs. */
export interface CreateSettings {
  readonly environmentId: EnvironmentId;
  readonly profile: TokenProfile;
  readonly role: TokenObjectRole;
  /** Recorded before: nobody else makes one of this id. */
  readonly objectId: AnyId;
  /** By what people have approved it, as {@link encodeWarrant} has it; absent for nothing. */
  readonly warrant?: string;
}

/** What `destroyTokenKeys` needs. */
export interface DestroySettings {
  readonly environmentId: EnvironmentId;
  readonly objects: readonly TokenObject[];
}

/** What `surveyToken` needs. */
export interface SurveySettings {
  readonly environmentId: EnvironmentId;
  readonly objects: readonly TokenObject[];
}

/** What `probeToken` needs. */
export interface ProbeSettings {
  readonly environmentId: EnvironmentId;
}

/** What an agent needs that moves key versions. */
export interface MoveSettings extends SurveySettings {
  readonly profile: TokenProfile;
}

/** What `keepCheckpoint` needs. */
export interface KeepSettings extends MoveSettings {
  /** As the token's audit signing key has signed it, which is among the objects. */
  readonly note: string;
  /** As {@link ServeSettings} has it. */
  readonly despiteFailedTry: boolean;
}

/** How an agent is doing. */
export interface AgentFigures {
  /** Key versions that it holds unwrapped. */
  readonly keysLoaded: number;
  /** Epochs whose keys it keeps. */
  readonly epochsKept: number;
  /** How often it has worked on each operation since its start, and for how many seconds. */
  readonly operations: Readonly<
    Record<string, { readonly count: number; readonly seconds: number }>
  >;
}

/** A checkpoint's content, as it travels. */
export interface TreeHead {
  readonly generation: number;
  readonly treeSize: number;
  /** Base64. */
  readonly rootHash: string;
}

/** What `signResumption` needs. */
export interface ResumeSettings extends MoveSettings {
  /** The generation that begins. */
  readonly generation: number;
  /** The checkpoint that is left behind, and the tree from which the log goes on. */
  readonly left: TreeHead;
  readonly from: TreeHead;
  /** The note that has begun the generation that the log is of; null for the first. */
  readonly before: string | null;
}

/** A signed note, and whether the same key has signed the one before. */
export interface ResumeReply {
  readonly note: string;
  readonly hasSignedBefore: boolean;
}

/**
 * How a ciphertext is bound, as {@link import('./ciphertext.ts').Binding} without the tenant, which
 * the version names.
 */
const binding = { subject: bytes, contextDigest: bytes };

/** For how long an agent may keep the key of an epoch, and for how many messages. */
export interface EpochBounds {
  readonly maxMessages: number;
  readonly maxAgeSeconds: number;
}

/** Absent where the version's key has no derivation epochs. */
const epoch: Field<EpochBounds | undefined> = optional(
  struct({ maxMessages: u32, maxAgeSeconds: u32 }),
);

/** A record as it is sealed. */
const sealed: Field<SealedContent> = struct({
  content: bytes,
  sealKeyId: id<SealKeyId>(),
  seal: bytes,
});

/** What shows that people have approved what is asked for. */
const warrant: Field<Warrant> = struct({
  operationId: id<OperationId>(),
  method: text,
  request: bytes,
  requester: text,
  expiresAt: time,
  assertions: list(
    struct({
      credentialId: bytes,
      clientDataJson: bytes,
      authenticatorData: bytes,
      signature: bytes,
    }),
  ),
  tenant: sealed,
});

interface Operation {
  readonly code: number;
  readonly request: Field<unknown>;
  readonly reply: Field<unknown>;
  /** May be given to a second agent when the first died before answering. */
  readonly idempotent: boolean;
  /** Creates or destroys token objects: an agent that does it is never killed. */
  readonly changesToken: boolean;
}

const operation = <Request, Reply>(
  code: number,
  request: Field<Request>,
  reply: Field<Reply>,
  changesToken = false,
) => ({ code, request, reply, idempotent: !changesToken, changesToken });

/** The agent's operations; one row each. */
export const OPERATIONS = {
  /** Opens the token and verifies its objects. The first request to an agent that is to serve. */
  start: operation(1, json<ServeSettings>(), json<TokenReport>()),
  /**
   * Probes the token and creates the environment's token objects where they are missing. Explicit,
   * by an operator.
   */
  initializeToken: operation(
    2,
    json<InitializeSettings>(),
    json<TokenIdentity & { profile: TokenProfile; objects: readonly TokenObject[] }>(),
    true,
  ),
  /** Generates, wraps, seals and proves a new key version under the given root and seal keys. */
  createKeyVersion: operation(
    3,
    struct({
      tenantId: id<TenantId>(),
      keyId: id<KeyId>(),
      version: u32,
      algorithm: u16,
      rootKeyId: id<RootKeyId>(),
      sealKeyId: id<SealKeyId>(),
    }),
    sealedKeyVersion,
  ),
  /** Encrypts a payload, within an epoch that is kept where `epoch` is given. */
  seal: operation(
    4,
    struct({ keyVersion: bytes, purpose: u8, ...binding, plaintext: bytes, epoch }),
    struct({ ciphertext: bytes }),
  ),
  /**
   * Decrypts a ciphertext of any purpose; the server has checked that the purpose is the caller's
   * to open.
   */
  open: operation(
    5,
    struct({ keyVersion: bytes, ...binding, ciphertext: bytes, epoch }),
    struct({ plaintext: bytes }),
  ),
  /**
   * Makes a data key of `length` random bytes, and wraps it; the plaintext comes back only where
   * `reveal` is 1.
   */
  issueDataKey: operation(
    6,
    struct({ keyVersion: bytes, purpose: u8, ...binding, length: u32, reveal: u8, epoch }),
    struct({ plaintext: bytes, ciphertext: bytes }),
  ),
  /**
   * Opens a ciphertext and seals what was in it anew, for the same purpose; the plaintext stays in
   * the agent.
   */
  reseal: operation(
    7,
    struct({
      sourceKeyVersion: bytes,
      sourceSubject: bytes,
      sourceContextDigest: bytes,
      ciphertext: bytes,
      sourceEpoch: epoch,
      keyVersion: bytes,
      ...binding,
      epoch,
    }),
    struct({ ciphertext: bytes }),
  ),
  /**
   * Brings stored data keys under another version of their key, each verified by opening it again;
   * the plaintexts stay in the agent. One that doesn't open says so in its own result.
   */
  rewrap: operation(
    9,
    struct({
      keyVersion: bytes,
      sourceKeyVersions: list(bytes),
      /** `source` counts in `sourceKeyVersions`. */
      items: list(struct({ source: u16, ...binding, ciphertext: bytes })),
    }),
    struct({ results: list(struct({ outcome: u8, ciphertext: bytes })) }),
  ),
  /** Encrypts payloads under one version, as one epoch. */
  sealAll: operation(
    30,
    struct({ keyVersion: bytes, items: list(struct({ contextDigest: bytes, plaintext: bytes })) }),
    struct({ ciphertexts: list(bytes) }),
  ),
  /**
   * Decrypts payloads and data keys of one version. One that doesn't open says so in its own
   * result.
   */
  openAll: operation(
    31,
    struct({ keyVersion: bytes, items: list(struct({ contextDigest: bytes, ciphertext: bytes })) }),
    struct({ results: list(struct({ outcome: u8, plaintext: bytes })) }),
  ),
  /** Makes data keys under one version, as one epoch. */
  issueDataKeys: operation(
    32,
    struct({ keyVersion: bytes, items: list(struct({ contextDigest: bytes, length: u32 })) }),
    struct({ dataKeys: list(struct({ plaintext: bytes, ciphertext: bytes })) }),
  ),
  /**
   * Opens ciphertexts of one version and seals what was in them under another, as one epoch, each
   * for the same purpose; the plaintexts stay in the agent. One that doesn't open says so in its
   * own result.
   */
  resealAll: operation(
    33,
    struct({
      sourceKeyVersion: bytes,
      keyVersion: bytes,
      items: list(struct({ sourceContextDigest: bytes, contextDigest: bytes, ciphertext: bytes })),
    }),
    struct({ results: list(struct({ outcome: u8, ciphertext: bytes })) }),
  ),
  /**
   * Destroys the session objects of the versions of a tenant's keys or of a key, or of all keys if
   * the id is empty.
   */
  forget: operation(10, struct({ ofId: bytes }), struct({})),
  /** Overwrites the keys of a tenant's or a key's epochs, or of all if the id is empty. */
  forgetEpochs: operation(34, struct({ ofId: bytes }), struct({})),
  /**
   * Looks for the environment's objects as they are recorded now, and uses those from then on, and
   * no others.
   */
  hold: operation(13, json<{ objects: readonly TokenObject[] }>(), json<HeldObjects>()),
  /**
   * Brings key versions under other root and seal keys: unwrapped to be wrapped again, proven by
   * their check values, and sealed anew. One that doesn't verify says so in its own result, which
   * is a sealed version or empty.
   */
  transfer: operation(
    14,
    struct({
      sealKeyId: id<SealKeyId>(),
      items: list(struct({ rootKeyId: id<RootKeyId>(), keyVersion: bytes })),
    }),
    struct({ keyVersions: list(bytes) }),
  ),
  /**
   * Seals records of one kind ({@link RECORD}) under a seal key; never decisions, which `decide`
   * alone seals, nor, where the agents hold a rule, what the operations below are for.
   */
  sealRecords: operation(
    17,
    struct({ sealKeyId: id<SealKeyId>(), kind: u8, contents: list(bytes) }),
    struct({ seals: list(bytes) }),
  ),
  /**
   * Whether each record is what its seal was made of: 1 or 0. One that names an unknown seal key
   * isn't.
   */
  verifyRecords: operation(
    18,
    struct({
      sealKeyId: id<SealKeyId>(),
      kind: u8,
      items: list(struct({ content: bytes, seal: bytes })),
    }),
    struct({ verified: list(u8) }),
  ),
  /** Brings verified records under another seal key, as they are. Refuses what does not verify. */
  resealRecords: operation(
    51,
    struct({
      formerKeyId: id<SealKeyId>(),
      sealKeyId: id<SealKeyId>(),
      kind: u8,
      items: list(struct({ content: bytes, seal: bytes })),
    }),
    struct({ seals: list(bytes) }),
  ),
  /**
   * Seals a tenant's policy after one line was added or taken away: `lines` are those before, of
   * which `before` is the sealed digest; absent where there was no policy.
   */
  sealPolicyChange: operation(
    52,
    struct({
      sealKeyId: id<SealKeyId>(),
      tenantId: id<TenantId>(),
      before: optional(sealed),
      lines: bytes,
      /** 1, or 0 where it is taken away. */
      isAdded: u8,
      line: bytes,
      warrant: optional(warrant),
    }),
    struct({ seal: bytes }),
  ),
  /**
   * Seals what approval rules, a passkey or a tenant have become; `before` is absent where they are
   * new. Of a new tenant it is what `nameTenant` has sealed.
   */
  sealRecordChange: operation(
    53,
    struct({
      sealKeyId: id<SealKeyId>(),
      kind: u8,
      before: optional(sealed),
      content: bytes,
      warrant: optional(warrant),
    }),
    struct({ seal: bytes }),
  ),
  /** Draws the UUID of a tenant that is to have this name, and seals that they belong together. */
  nameTenant: operation(
    54,
    struct({ sealKeyId: id<SealKeyId>(), name: text }),
    struct({ tenantId: id<TenantId>(), content: bytes, seal: bytes }),
  ),
  /**
   * Verifies that the owner of a sealed passkey has decided on a sealed pending operation, and
   * seals the decision, and the passkey with its new counter and revision; all four are empty
   * unless `verdict` is `done`, of {@link VERDICT}. `decision` is 1 to approve, 2 to reject.
   */
  decide: operation(
    50,
    struct({
      sealKeyId: id<SealKeyId>(),
      operation: bytes,
      operationSealKeyId: id<SealKeyId>(),
      operationSeal: bytes,
      decision: u8,
      passkey: bytes,
      passkeySealKeyId: id<SealKeyId>(),
      passkeySeal: bytes,
      clientDataJson: bytes,
      authenticatorData: bytes,
      signature: bytes,
      decidedAt: time,
    }),
    struct({
      verdict: u8,
      decision: bytes,
      decisionSeal: bytes,
      passkey: bytes,
      passkeySeal: bytes,
    }),
  ),
  /**
   * Makes one root or seal key. Refuses an id that the token has. Explicit, in an agent of its own.
   */
  createTokenKey: operation(15, json<CreateSettings>(), json<Record<never, never>>(), true),
  /**
   * Destroys token objects; those that aren't there any more are well. By an operator, in an agent
   * of its own.
   */
  destroyTokenKeys: operation(16, json<DestroySettings>(), json<{ destroyed: number }>(), true),
  /** Says how the agent is doing: for metrics. */
  measure: operation(19, struct({}), json<AgentFigures>()),
  /** Random bytes. */
  random: operation(8, struct({ length: u32 }), struct({ bytes })),
  /**
   * Looks at the token and at the given objects in it, anew; whatever they are, it is reported and
   * nothing is refused.
   */
  report: operation(11, json<{ objects: readonly TokenObject[] }>(), json<TokenPosture>()),
  /** Opens the token and reports as `report` does, without serving: for an operator's command. */
  inspectToken: operation(12, json<Omit<ServeSettings, 'keyCacheSize'>>(), json<TokenPosture>()),
  /** Says which token it is, without a PIN. In an agent of its own, as all that follow. */
  identifyToken: operation(20, json<Record<never, never>>(), json<TokenIdentity>()),
  /**
   * Opens the token and says what moving key versions to it or from it would meet. Changes nothing
   * in it.
   */
  surveyToken: operation(21, json<SurveySettings>(), json<TokenSurvey>()),
  /** Probes the token, as `initializeToken` does, and makes nothing that stays. */
  probeToken: operation(22, json<ProbeSettings>(), json<{ profile: TokenProfile }>(), true),
  /**
   * Opens the token that key versions are moved to, and makes a transport key pair that ends with
   * the agent.
   */
  openMoveTarget: operation(23, json<MoveSettings>(), json<TransportOffer>()),
  /**
   * Opens the token that key versions are moved from, to be wrapped for the agent that made the
   * offer.
   */
  openMoveSource: operation(
    24,
    json<MoveSettings & { readonly offer: TransportOffer }>(),
    json<TransportChoice>(),
  ),
  /** Takes what the source has chosen. By the agent that made the offer. */
  acceptTransport: operation(25, json<TransportChoice>(), json<Record<never, never>>()),
  /**
   * Wraps verified key versions by the transport key; empty for one that doesn't verify. By an
   * agent opened as source.
   */
  exportKeyVersions: operation(
    26,
    struct({ keyVersions: list(bytes) }),
    struct({ wrapped: list(bytes) }),
  ),
  /**
   * Brings what was exported under root keys of this token, proven by the check value that the
   * version had, and seals it. By an agent opened as target.
   */
  importKeyVersions: operation(
    27,
    struct({
      sealKeyId: id<SealKeyId>(),
      items: list(struct({ rootKeyId: id<RootKeyId>(), keyVersion: bytes, wrapped: bytes })),
    }),
    struct({ keyVersions: list(bytes) }),
  ),
  /**
   * The key under which a tenant's encryption contexts are masked in audit entries of one period,
   * 32 bytes: derived by the token's mask key. `period` is the year and month, as 202601.
   */
  deriveMaskKey: operation(
    40,
    struct({ tenantId: id<TenantId>(), period: u32 }),
    struct({ key: bytes }),
  ),
  /**
   * The key under which a replica's rows of the audit log's inbox are proven, 32 bytes: derived by
   * the token's mask key, and by which, since another token has another. `maskKeyId` is empty, or
   * the only one to derive by: `key` is empty then where the token has another.
   */
  deriveWriterKey: operation(
    44,
    struct({ replicaId: id<AnyId>(), maskKeyId: bytes }),
    struct({ key: bytes, maskKeyId: id<AnyId>() }),
  ),
  /**
   * Composes and signs a checkpoint of the audit log. Refuses one that doesn't continue every
   * checkpoint that this agent has signed, was given as known or, where told to heed that, the
   * token keeps; asks for a proof that it lacks.
   */
  signCheckpoint: operation(41, json<CheckpointRequest>(), json<CheckpointReply>()),
  /**
   * The latest checkpoint that the token keeps, of those that its own key has signed. The agent
   * heeds it from then on.
   */
  readKeptCheckpoint: operation(42, struct({}), json<{ readonly note: string | null }>()),
  /** The public half of the audit signing key, as the token has it (SPKI). */
  readAuditKey: operation(49, struct({}), struct({ spki: bytes })),
  /**
   * Signs the note that begins a generation of the log, at an operator's command, and says whether
   * this token's key has signed the note of the generation before. In an agent of its own.
   */
  signResumption: operation(45, json<ResumeSettings>(), json<ResumeReply>()),
  /**
   * Has the token keep a checkpoint in place of an earlier one. Refuses what the token's key hasn't
   * signed, and what is earlier than what is kept. In an agent of its own.
   */
  keepCheckpoint: operation(43, json<KeepSettings>(), json<Record<never, never>>(), true),
} satisfies Record<string, Operation>;

/** A checkpoint to be signed, and what shows that it continues those before. */
export interface CheckpointRequest extends TreeHead {
  /** Signed checkpoints that it must continue, besides those that the agent remembers. */
  readonly known: readonly string[];
  /** Consistency proofs (RFC 6962, 2.1.2), each from an earlier size to this one's. */
  readonly proofs: readonly { readonly fromSize: number; readonly hashes: readonly string[] }[];
  /**
   * How the generation was begun: its first leaf, and the proof that it is there (RFC 6962, 2.1.1).
   * Of a generation after the first, once an agent asks for it.
   */
  readonly resumption?: { readonly leaf: string; readonly inclusion: readonly string[] };
}

/**
 * A signed note and the public key (SPKI, base64) that it verifies under; or the size from which a
 * proof is needed; or that it is to be shown how the generation was begun, or that this does not
 * verify; or the checkpoint that stands against signing it, by its size and, where there
 * is one, as a signed note.
 */
export type CheckpointReply =
  | { readonly note: string; readonly spki: string }
  | { readonly needsProofFrom: number }
  | { readonly resumption: 'needed' | 'refused' }
  | { readonly conflictsWith: number; readonly conflictingNote: string };

/** Returns a warrant as text, for a request in JSON. */
export function encodeWarrant(value: Warrant): string {
  return encode(warrant, value).toString('base64');
}

/** Returns the warrant of a text. Throws RangeError for any other. */
export function decodeWarrant(value: string): Warrant {
  return decode(warrant, Buffer.from(value, 'base64'));
}

/** What became of an item of an operation on many. */
export const ITEM_OUTCOME = { done: 0, doesNotOpen: 1, sourceCorrupt: 2 } as const;

/** What `decide` found: that all is well, or the first thing that is not. */
export const VERDICT = {
  done: 0,
  /** The seal of the operation or the passkey does not verify, or is not of such a record. */
  operationNotSealed: 1,
  passkeyNotSealed: 2,
  /** The operation is decided on already, or past its expiry. */
  notPending: 3,
  expired: 4,
  /** The passkey is the requester's own, or was removed. */
  ownOperation: 5,
  passkeyRemoved: 6,
  /** The time of the decision is not the agent's own, give or take five minutes. */
  wrongTime: 7,
  /** The client data is not that of an assertion, or of another challenge or another site. */
  clientData: 8,
  challenge: 9,
  origin: 10,
  /** The authenticator data is malformed, or of another relying party. */
  authenticatorData: 11,
  relyingParty: 12,
  userNotPresent: 13,
  userNotVerified: 14,
  /** Registered as device-bound, the passkey is said to be on other devices now, or the reverse. */
  backupEligibility: 15,
  signature: 16,
  /** The counter of a device-bound passkey has not grown: there may be a copy of it. */
  counter: 17,
} as const;

/** One of {@link VERDICT}'s values. */
export type Verdict = (typeof VERDICT)[keyof typeof VERDICT];

export type Operations = typeof OPERATIONS;
export type OperationName = keyof Operations;
export type RequestOf<Name extends OperationName> =
  Operations[Name]['request'] extends Field<infer T> ? T : never;
export type ReplyOf<Name extends OperationName> =
  Operations[Name]['reply'] extends Field<infer T> ? T : never;

const operationNames = new Map<number, OperationName>(
  (Object.keys(OPERATIONS) as OperationName[]).map((name) => [OPERATIONS[name].code, name]),
);

/**
 * Why an agent didn't do what it was asked.
 *
 * `token`: a PKCS#11 function failed; the agent ends after saying so, because what the library and
 * its sessions are worth after an error nobody knows. `not-approved`: the rule that the agents hold
 * wants people to have approved it. The others leave the agent as it was, except
 * that one which fails to `start` ends.
 */
export type FailureKind =
  | 'decryption-failed'
  | 'row-corrupt'
  | 'expired'
  | 'token'
  | 'token-object-missing'
  | 'pin-rejected'
  | 'pin-tries-low'
  | 'refused'
  | 'not-approved'
  | 'internal';

/** Failures after which an agent does nothing more and ends. */
export const ENDING_FAILURES: readonly FailureKind[] = [
  'token',
  'pin-rejected',
  'pin-tries-low',
  'refused',
];

/** A failure as it travels. The detail is for operators and holds no secret. */
export interface Failure {
  readonly kind: FailureKind;
  readonly detail: string;
}

/** The agent's exit code when it ends by itself, having said why and begun nothing else. */
export const EXIT_AFTER_FAILURE = 75;

const REQUEST_HEAD_BYTES = 17;
const REPLY_HEAD_BYTES = 9;
const HEAD_BYTES = 4;
/** The bit of a page's length that announces another. */
const MORE = 0x8000_0000;
/** No frame or page is longer: the largest plaintext needs a few hundred bytes beyond 64 KiB. */
export const MAX_FRAME_BYTES = 1024 * 1024;
/** No frame is longer that travels in pages: 800,000 token objects. */
export const MAX_PAGED_BYTES = 64 * 1024 * 1024;

function requireLength(frame: Buffer): void {
  if (frame.length > MAX_PAGED_BYTES)
    throw new RangeError(`cannot send a message of ${frame.length} bytes to or from an agent`);
}

/** A request's frame. Throws RangeError for one of more than {@link MAX_PAGED_BYTES}. */
export function encodeRequest<Name extends OperationName>(
  requestId: number,
  name: Name,
  deadline: number,
  request: RequestOf<Name>,
): Buffer {
  const row = OPERATIONS[name];
  const frame = encode(row.request as Field<RequestOf<Name>>, request, REQUEST_HEAD_BYTES);
  requireLength(frame);
  frame.writeUInt32BE(frame.length - 4, 0);
  frame.writeUInt32BE(requestId, 4);
  frame.writeUInt8(row.code, 8);
  frame.writeDoubleBE(deadline, 9);
  return frame;
}

/** How many bytes a request's record takes. */
export function requestBytes<Name extends OperationName>(
  name: Name,
  request: RequestOf<Name>,
): number {
  return (OPERATIONS[name].request as Field<RequestOf<Name>>).size(request);
}

/** A request as an agent reads it; its record is decoded by {@link decodeRequest}. */
export interface RequestFrame {
  readonly requestId: number;
  readonly name: OperationName;
  readonly deadline: number;
  readonly frame: Buffer;
}

/** Throws RangeError for an operation that isn't known. */
export function readRequest(frame: Buffer): RequestFrame {
  const name = operationNames.get(frame.readUInt8(8));
  if (name === undefined) throw new RangeError('a frame names no operation');
  return { requestId: frame.readUInt32BE(4), name, deadline: frame.readDoubleBE(9), frame };
}

/** The request's record. */
export function decodeRequest<Name extends OperationName>(
  name: Name,
  frame: Buffer,
): RequestOf<Name> {
  return decode(OPERATIONS[name].request as Field<RequestOf<Name>>, frame, REQUEST_HEAD_BYTES);
}

const failure = json<Failure>();

/** A reply's frame: what the operation returned. Throws as {@link encodeRequest}. */
export function encodeReply<Name extends OperationName>(
  requestId: number,
  name: Name,
  reply: ReplyOf<Name>,
): Buffer {
  return finishReply(
    requestId,
    0,
    encode(OPERATIONS[name].reply as Field<ReplyOf<Name>>, reply, REPLY_HEAD_BYTES),
  );
}

/** A reply's frame: why the operation failed. */
export function encodeFailure(requestId: number, why: Failure): Buffer {
  return finishReply(requestId, 1, encode(failure, why, REPLY_HEAD_BYTES));
}

function finishReply(requestId: number, outcome: 0 | 1, frame: Buffer): Buffer {
  requireLength(frame);
  frame.writeUInt32BE(frame.length - 4, 0);
  frame.writeUInt32BE(requestId, 4);
  frame.writeUInt8(outcome, 8);
  return frame;
}

/** The id of the request that a reply answers. */
export function replyId(frame: Buffer): number {
  return frame.readUInt32BE(4);
}

/** The reply's record, or the failure. */
export function decodeReply<Name extends OperationName>(
  name: Name,
  frame: Buffer,
): { readonly reply: ReplyOf<Name> } | { readonly failure: Failure } {
  if (frame.readUInt8(8) !== 0) return { failure: decode(failure, frame, REPLY_HEAD_BYTES) };
  return { reply: decode(OPERATIONS[name].reply as Field<ReplyOf<Name>>, frame, REPLY_HEAD_BYTES) };
}

/**
 * Returns a frame as it is written: itself, or, where it is longer than {@link MAX_FRAME_BYTES},
 * its pages, each a head and a part of the frame's own bytes. What is done with the frame's bytes
 * is done with theirs.
 */
export function pagesOf(frame: Buffer): Buffer[] {
  if (frame.length <= MAX_FRAME_BYTES) return [frame];
  const pages: Buffer[] = [];
  for (let start = HEAD_BYTES; start < frame.length; start += MAX_FRAME_BYTES - HEAD_BYTES) {
    const part = frame.subarray(start, start + MAX_FRAME_BYTES - HEAD_BYTES);
    const isLast = start + part.length === frame.length;
    const head = Buffer.alloc(HEAD_BYTES);
    head.writeUInt32BE(part.length + (isLast ? 0 : MORE), 0);
    pages.push(head, part);
  }
  return pages;
}

/**
 * Cuts a stream into frames, and puts together those that come in pages. The bytes of a frame are
 * handed over, not copied, where one chunk holds it whole. Throws RangeError on a page longer than
 * {@link MAX_FRAME_BYTES} or pages of more than {@link MAX_PAGED_BYTES}: the peer is broken.
 */
export function frameReader(onFrame: (frame: Buffer) => void): (chunk: Buffer) => void {
  let pending: Buffer = Buffer.alloc(0);
  let parts: Buffer[] = [];
  let partsBytes = 0;
  const collect = (page: Buffer) => {
    parts.push(Buffer.from(page.subarray(HEAD_BYTES)));
    partsBytes += page.length - HEAD_BYTES;
    page.fill(0);
  };
  const whole = (): Buffer => {
    const frame = Buffer.concat([Buffer.alloc(HEAD_BYTES), ...parts]);
    frame.writeUInt32BE(partsBytes, 0);
    for (const part of parts) part.fill(0);
    parts = [];
    partsBytes = 0;
    return frame;
  };
  return (chunk) => {
    let rest = pending.length === 0 ? chunk : Buffer.concat([pending, chunk]);
    while (rest.length >= HEAD_BYTES) {
      const word = rest.readUInt32BE(0);
      const hasMore = word >= MORE;
      const end = HEAD_BYTES + (hasMore ? word - MORE : word);
      if (end > MAX_FRAME_BYTES || partsBytes + end > MAX_PAGED_BYTES)
        throw new RangeError('a frame is longer than any can be');
      if (rest.length < end) break;
      const page = rest.subarray(0, end);
      rest = rest.subarray(end);
      if (hasMore || parts.length > 0) collect(page);
      if (!hasMore) onFrame(parts.length > 0 ? whole() : page);
    }
    pending = rest;
  };
}
