/**
 * Ciphertext format 1, to the byte: the one place in the code that draws it. docs/ciphertext.md
 * says the same in words.
 *
 * ```
 *  0 format = 01 │ 1 suite │ 2 purpose │ 3 zero
 *  4 key UUID (16) │ 20 version (4) │ 24 salt (32) │ 56 IV (12) │ 68 commitment (32)
 *  100 encrypted │ tag (16)
 *
 *  H = bytes 0..67        B = tenant UUID (16) ‖ subject (16) ‖ context digest (32)
 *  suite 1: M = material
 *  suite 2: M = E = HMAC-SHA-512(material,
 *    00000001 ‖ "keyward/v1/epoch" 00 ‖ suite ‖ key UUID ‖ version ‖ tenant UUID ‖ salt ‖ 00000200)
 *  K(32) ‖ commitment(32) =
 *    HMAC-SHA-512(M, 00000001 ‖ "keyward/v1/message" 00 ‖ H ‖ B ‖ 00000200)
 *  AES-256-GCM under K, AAD = H ‖ commitment ‖ B
 * ```
 *
 * Invariants: no plaintext leaves {@link open} before commitment and tag are verified; a ciphertext
 * that parses encodes back to the same bytes; in suite 2 the messages of one salt are numbered and
 * sealed by one call, or are of one {@link Epoch} and have IVs that are random and hedged.
 * Big-endian throughout. Holds no material: the caller brings the HMAC, which the agent has from
 * the token; E lives as long as the caller's {@link Epoch} or {@link Epochs}. Doesn't know what
 * keys, tenants or contexts are beyond their bytes.
 */
import { createSecretKey, hash, type KeyObject, timingSafeEqual } from 'node:crypto';
import { KeywardError } from '../errors.ts';
import { idFromBytes, idToBytes, type KeyId, UUID_BYTES } from '../ids.ts';
import { decrypt, encryptInto, IV_BYTES, TAG_BYTES } from './aes-gcm.ts';
import { EpochKey } from './epoch-key.ts';
import { drawEpochSalt, drawIv, drawSaltAndIv, SALT_BYTES } from './salts.ts';

const FORMAT = 1;
/**
 * A key per message by SP 800-108 in counter mode over HMAC-SHA-512, AES-256-GCM: derived from the
 * material itself, or from an epoch's key, which is.
 */
const SUITE = { material: 1, epoch: 2 } as const;
type Suite = (typeof SUITE)[keyof typeof SUITE];

/** What a ciphertext holds; no purpose opens as another. */
export const PURPOSE = { payload: 1, dataKey: 2, storedDataKey: 3 } as const;
export type Purpose = (typeof PURPOSE)[keyof typeof PURPOSE];

const PURPOSE_OFFSET = 2;
const KEY_ID_OFFSET = 4;
const VERSION_OFFSET = 20;
const SALT_OFFSET = 24;
const IV_OFFSET = 56;
const HEADER_BYTES = 68;
const COMMITMENT_BYTES = 32;
const ENCRYPTED_OFFSET = HEADER_BYTES + COMMITMENT_BYTES;
const MESSAGE_KEY_BYTES = 32;

/** How much longer a ciphertext is than its plaintext, in bytes. */
export const CIPHERTEXT_OVERHEAD = ENCRYPTED_OFFSET + TAG_BYTES;
/** The largest plaintext, in bytes. */
export const MAX_PLAINTEXT_BYTES = 65_536;
/** The length of the digest of an encryption context, in bytes. */
export const CONTEXT_DIGEST_BYTES = 32;
const BINDING_BYTES = UUID_BYTES + UUID_BYTES + CONTEXT_DIGEST_BYTES;
/** The subject of whatever isn't a stored data key. */
export const NO_SUBJECT: Buffer = Buffer.alloc(UUID_BYTES);

/** What a ciphertext is bound to besides its own header: B. */
export interface Binding {
  /** The tenant's UUID, 16 bytes. */
  readonly tenant: Uint8Array;
  /** The UUID of the stored data key's row, else {@link NO_SUBJECT}. */
  readonly subject: Uint8Array;
  /** The encryption context's digest, 32 bytes. */
  readonly contextDigest: Uint8Array;
}

/** What a ciphertext says of itself before anything is verified. */
export interface CiphertextHeader {
  readonly purpose: Purpose;
  readonly keyId: KeyId;
  readonly version: number;
}

/**
 * HMAC-SHA-512 of the input under a key version's material: 64 bytes, which the callee may
 * overwrite.
 */
export type MaterialHmac = (input: Buffer) => Buffer;

/**
 * Keys of epochs that have been derived, by {@link epochNameOf}, for whoever opens several messages
 * under one version. Whoever brings them wipes them.
 */
export type Epochs = Map<string, EpochKey>;

/** An epoch in which messages are sealed one after another, until its key is wiped. */
export interface Epoch {
  readonly salt: Buffer;
  readonly key: EpochKey;
}

/** A message of many that are sealed at once. */
export interface Message extends Omit<Binding, 'tenant'> {
  readonly purpose: Purpose;
  readonly plaintext: Uint8Array;
}

/** [i]₂ and Label of SP 800-108, and the zero behind them. */
const labelOf = (label: string) => Buffer.from(`\0\0\0\x01${label}\0`, 'latin1');
const MESSAGE_LABEL = labelOf('keyward/v1/message');
const EPOCH_LABEL = labelOf('keyward/v1/epoch');
/** [L]₂ of SP 800-108: 512 bits. */
const DERIVED_LENGTH = Buffer.from([0, 0, 2, 0]);
const MESSAGE_INPUT_BYTES =
  MESSAGE_LABEL.length + HEADER_BYTES + BINDING_BYTES + DERIVED_LENGTH.length;
/** The IVs of a batch are 8 random bytes of the epoch, then the message's number within it. */
const NUMBER_OFFSET = IV_OFFSET + IV_BYTES - 4;

/**
 * Reads a ciphertext's header. Throws DECRYPTION_FAILED for whatever isn't format 1, suite 1 or 2,
 * one of `purposes`, and of a possible length.
 */
export function parseHeader(ciphertext: Buffer, purposes: readonly Purpose[]): CiphertextHeader {
  const purpose = purposes.find((known) => known === ciphertext[PURPOSE_OFFSET]);
  const version =
    ciphertext.length >= CIPHERTEXT_OVERHEAD ? ciphertext.readUInt32BE(VERSION_OFFSET) : 0;
  if (
    ciphertext[0] !== FORMAT ||
    (ciphertext[1] !== SUITE.material && ciphertext[1] !== SUITE.epoch) ||
    ciphertext[3] !== 0 ||
    ciphertext.length > CIPHERTEXT_OVERHEAD + MAX_PLAINTEXT_BYTES ||
    purpose === undefined ||
    version === 0
  ) {
    throw new KeywardError('DECRYPTION_FAILED');
  }
  return {
    purpose,
    keyId: idFromBytes(ciphertext.subarray(KEY_ID_OFFSET, VERSION_OFFSET)),
    version,
  };
}

/**
 * Returns what tells the ciphertexts of one key version apart by the epoch whose key the token
 * derives to open them; undefined in suite 1, where it derives a key for each.
 */
export function epochNameOf(ciphertext: Buffer): string | undefined {
  return ciphertext[1] === SUITE.epoch ? saltOf(ciphertext) : undefined;
}

function saltOf(ciphertext: Buffer): string {
  return ciphertext.toString('latin1', SALT_OFFSET, IV_OFFSET);
}

/**
 * Returns SHA-256 of a ciphertext's salt, base64: tells ciphertexts apart, and costs the same for
 * whatever bytes it is given, also where they are no ciphertext.
 */
export function saltDigest(ciphertext: Buffer): string {
  return hash('sha256', ciphertext.subarray(SALT_OFFSET, IV_OFFSET), 'base64');
}

/**
 * Encrypts `plaintext` (0 to 65,536 bytes) in suite 1, under a salt and an IV of its own. Throws
 * RangeError for what {@link open} could not open again.
 */
export function seal(
  header: CiphertextHeader,
  binding: Binding,
  plaintext: Uint8Array,
  hmac: MaterialHmac,
): Buffer {
  const ciphertext = Buffer.alloc(CIPHERTEXT_OVERHEAD + plaintext.length);
  startHeader(ciphertext, SUITE.material, header);
  ciphertext[PURPOSE_OFFSET] = header.purpose;
  drawSaltAndIv(
    ciphertext.subarray(SALT_OFFSET, HEADER_BYTES),
    [ciphertext.subarray(0, SALT_OFFSET), ...partsOf(binding)],
    plaintext,
  );
  encrypt(ciphertext, binding, plaintext, hmac);
  return ciphertext;
}

/**
 * Encrypts plaintexts (0 to 65,536 bytes each) in suite 2, as one epoch: under a salt that they
 * share, and IVs that number them. Asks for one HMAC under the material. Throws RangeError for what
 * {@link open} could not open again.
 */
export function sealAll(
  version: Omit<CiphertextHeader, 'purpose'>,
  tenant: Uint8Array,
  messages: readonly Message[],
  hmac: MaterialHmac,
): Buffer[] {
  if (messages.length === 0) return [];
  const ciphertexts = layOut(version, messages);
  const drawn = Buffer.alloc(SALT_BYTES + IV_BYTES);
  drawEpochSalt(
    drawn,
    tenant,
    messages.map(({ subject, contextDigest, plaintext }, number) => ({
      parts: [(ciphertexts[number] as Buffer).subarray(0, SALT_OFFSET), subject, contextDigest],
      plaintext,
    })),
  );
  for (const [number, ciphertext] of ciphertexts.entries()) {
    drawn.copy(ciphertext, SALT_OFFSET);
    ciphertext.writeUInt32BE(number, NUMBER_OFFSET);
  }
  const epoch = deriveEpoch(ciphertexts[0] as Buffer, tenant, hmac);
  const inEpoch = (input: Buffer) => epoch.hmac(input);
  try {
    for (const [number, { subject, contextDigest, plaintext }] of messages.entries()) {
      const binding = { tenant, subject, contextDigest };
      encrypt(ciphertexts[number] as Buffer, binding, plaintext, inEpoch);
    }
  } finally {
    epoch.wipe();
  }
  return ciphertexts;
}

/**
 * Begins an epoch whose first message is to be this one: draws its salt, and derives its key by one
 * HMAC under the material. Throws as {@link seal}.
 */
export function beginEpoch(
  header: CiphertextHeader,
  binding: Binding,
  plaintext: Uint8Array,
  hmac: MaterialHmac,
): Epoch {
  const start = Buffer.alloc(HEADER_BYTES);
  startHeader(start, SUITE.epoch, header);
  start[PURPOSE_OFFSET] = header.purpose;
  const parts = [start.subarray(0, SALT_OFFSET), ...partsOf(binding)];
  drawSaltAndIv(start.subarray(SALT_OFFSET), parts, plaintext);
  return {
    salt: Buffer.from(start.subarray(SALT_OFFSET, IV_OFFSET)),
    key: deriveEpoch(start, binding.tenant, hmac),
  };
}

/**
 * Encrypts `plaintext` (0 to 65,536 bytes) in suite 2, within an epoch that was begun for this
 * version and tenant, under an IV of its own. Throws as {@link seal}.
 */
export function sealWithin(
  { salt, key }: Epoch,
  header: CiphertextHeader,
  binding: Binding,
  plaintext: Uint8Array,
): Buffer {
  const ciphertext = Buffer.alloc(CIPHERTEXT_OVERHEAD + plaintext.length);
  startHeader(ciphertext, SUITE.epoch, header);
  ciphertext[PURPOSE_OFFSET] = header.purpose;
  salt.copy(ciphertext, SALT_OFFSET);
  drawIv(ivOf(ciphertext), [ciphertext.subarray(0, IV_OFFSET), ...partsOf(binding)], plaintext);
  encrypt(ciphertext, binding, plaintext, (input) => key.hmac(input));
  return ciphertext;
}

function partsOf({ tenant, subject, contextDigest }: Binding): Uint8Array[] {
  return [tenant, subject, contextDigest];
}

/** Returns room for each message's ciphertext, with what its header has before its salt. */
function layOut(version: Omit<CiphertextHeader, 'purpose'>, messages: readonly Message[]) {
  const lengths = messages.map(({ plaintext }) => CIPHERTEXT_OVERHEAD + plaintext.length);
  const whole = Buffer.alloc(lengths.reduce((sum, length) => sum + length));
  const start = Buffer.alloc(SALT_OFFSET);
  startHeader(start, SUITE.epoch, version);
  let end = 0;
  return messages.map(({ purpose }, number) => {
    const ciphertext = whole.subarray(end, end + (lengths[number] as number));
    end += ciphertext.length;
    start.copy(ciphertext);
    ciphertext[PURPOSE_OFFSET] = purpose;
    return ciphertext;
  });
}

/**
 * Opens a ciphertext whose header {@link parseHeader} accepted. Throws DECRYPTION_FAILED unless it
 * was sealed with this material and this binding, and no byte has changed since. `epochs` are
 * looked into and added to; without them an epoch's key is derived for this ciphertext alone.
 */
export function open(
  ciphertext: Buffer,
  binding: Binding,
  hmac: MaterialHmac,
  epochs?: Epochs,
): Buffer {
  if (ciphertext[1] === SUITE.material) return openBy(hmac, ciphertext, binding);
  const epoch = epochOf(ciphertext, binding, hmac, epochs);
  try {
    return openBy((input) => epoch.hmac(input), ciphertext, binding);
  } finally {
    if (epochs === undefined) epoch.wipe();
  }
}

function openBy(hmac: MaterialHmac, ciphertext: Buffer, binding: Binding): Buffer {
  const { key, commitment } = deriveMessageKey(ciphertext, binding, hmac);
  if (!timingSafeEqual(commitment, ciphertext.subarray(HEADER_BYTES, ENCRYPTED_OFFSET))) {
    throw new KeywardError('DECRYPTION_FAILED');
  }
  const sealed = ciphertext.subarray(ENCRYPTED_OFFSET);
  const plaintext = decrypt(key, ivOf(ciphertext), additionalData(ciphertext, binding), sealed);
  if (plaintext === undefined) throw new KeywardError('DECRYPTION_FAILED');
  return plaintext;
}

/** Writes what a header has before its salt, but for the purpose. */
function startHeader(
  target: Buffer,
  suite: Suite,
  { keyId, version }: Omit<CiphertextHeader, 'purpose'>,
): void {
  if (version < 1) throw new RangeError('nothing could open this');
  target[0] = FORMAT;
  target[1] = suite;
  idToBytes(keyId).copy(target, KEY_ID_OFFSET);
  target.writeUInt32BE(version, VERSION_OFFSET);
}

/** Completes a ciphertext that has its header. */
function encrypt(
  ciphertext: Buffer,
  binding: Binding,
  plaintext: Uint8Array,
  hmac: MaterialHmac,
): void {
  if (plaintext.length > MAX_PLAINTEXT_BYTES) throw new RangeError('nothing could open this');
  const { key, commitment } = deriveMessageKey(ciphertext, binding, hmac);
  commitment.copy(ciphertext, HEADER_BYTES);
  const target = ciphertext.subarray(ENCRYPTED_OFFSET);
  encryptInto(target, key, ivOf(ciphertext), additionalData(ciphertext, binding), plaintext);
}

function ivOf(ciphertext: Buffer): Buffer {
  return ciphertext.subarray(IV_OFFSET, IV_OFFSET + IV_BYTES);
}

function epochOf(
  ciphertext: Buffer,
  { tenant }: Binding,
  hmac: MaterialHmac,
  epochs: Epochs | undefined,
): EpochKey {
  const name = epochs && saltOf(ciphertext);
  const known = name === undefined ? undefined : epochs?.get(name);
  if (known !== undefined) return known;
  const epoch = deriveEpoch(ciphertext, tenant, hmac);
  if (name !== undefined) epochs?.set(name, epoch);
  return epoch;
}

/** Returns E, of the epoch that the header names. */
function deriveEpoch(header: Buffer, tenant: Uint8Array, hmac: MaterialHmac): EpochKey {
  if (tenant.length !== UUID_BYTES) throw new RangeError('a tenant’s UUID has another length');
  const derived = hmac(
    Buffer.concat([
      EPOCH_LABEL,
      header.subarray(1, 2),
      header.subarray(KEY_ID_OFFSET, SALT_OFFSET),
      tenant,
      header.subarray(SALT_OFFSET, SALT_OFFSET + SALT_BYTES),
      DERIVED_LENGTH,
    ]),
  );
  return new EpochKey(derived, MESSAGE_INPUT_BYTES);
}

function deriveMessageKey(
  ciphertext: Buffer,
  { tenant, subject, contextDigest }: Binding,
  hmac: MaterialHmac,
): { key: KeyObject; commitment: Buffer } {
  if (
    tenant.length !== UUID_BYTES ||
    subject.length !== UUID_BYTES ||
    contextDigest.length !== CONTEXT_DIGEST_BYTES
  )
    throw new RangeError('a part of the binding has another length');
  const header = ciphertext.subarray(0, HEADER_BYTES);
  const derived = hmac(
    Buffer.concat(
      [MESSAGE_LABEL, header, tenant, subject, contextDigest, DERIVED_LENGTH],
      MESSAGE_INPUT_BYTES,
    ),
  );
  const key = createSecretKey(derived.subarray(0, MESSAGE_KEY_BYTES));
  const commitment = Buffer.from(
    derived.subarray(MESSAGE_KEY_BYTES, MESSAGE_KEY_BYTES + COMMITMENT_BYTES),
  );
  derived.fill(0);
  return { key, commitment };
}

function additionalData(ciphertext: Buffer, { tenant, subject, contextDigest }: Binding): Buffer {
  return Buffer.concat(
    [ciphertext.subarray(0, ENCRYPTED_OFFSET), tenant, subject, contextDigest],
    ENCRYPTED_OFFSET + BINDING_BYTES,
  );
}
