/**
 * Witnesses of the log: whose cosignatures are kept, and whether one is theirs (C2SP
 * tlog-cosignature, version 1).
 *
 * Witnesses are named by their verifier keys, `name+hash+base64(04 ‖ Ed25519 public key)`, a line
 * each; behind it may stand the URL at which the witness takes checkpoints. Knows no checkpoint but
 * as text, and asks no witness anything.
 */
import { createPublicKey, hash, type KeyObject, verify } from 'node:crypto';

const ALGORITHM = 0x04;
const KEY_BYTES = 32;
const ID_BYTES = 4;
const TIME_BYTES = 8;
const SIGNATURE_BYTES = 64;
/**
 * The last second that a cosignature may be of, as docs/audit.md has it: later ones would spoil the
 * note for verifiers.
 */
const LAST_SECOND = 8_640_000_000_000n;
const ED25519_SPKI = Buffer.from('302a300506032b6570032100', 'hex');

export interface Witness {
  readonly name: string;
  /** The first 4 bytes that its cosignatures have. */
  readonly id: Buffer;
  readonly key: KeyObject;
  /**
   * Its submission prefix (C2SP tlog-witness), without a last slash; undefined for one that is
   * never asked.
   */
  readonly url: string | undefined;
}

/**
 * The witnesses in a file's text: a verifier key a line, and the URL behind a space if it has one;
 * `#` for comments. Throws an Error for any other line, which it names by its number, and for a
 * file without a line.
 */
export function parseWitnesses(text: string): Witness[] {
  if (text.trim() === '') throw new Error('is empty');
  return text.split('\n').flatMap((line, index) => {
    const content = line.trim();
    if (content === '' || content.startsWith('#')) return [];
    try {
      return [parseWitness(content)];
    } catch (cause) {
      throw new Error(`line ${index + 1}: ${(cause as Error).message}`, { cause });
    }
  });
}

function parseWitness(line: string): Witness {
  const [verifierKey = '', url, ...more] = line.split(/\s+/);
  if (more.length > 0) throw new Error('must have a verifier key and at most a URL');
  return {
    ...parseVerifierKey(verifierKey),
    url: url === undefined ? undefined : parsePrefix(url),
  };
}

/** What is wrong with it is said without its text, which may have a password. */
function parsePrefix(text: string): string {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (url === undefined || !/^https?:$/.test(url.protocol))
    throw new Error('the witness’s URL must be http: or https:');
  if (url.username !== '' || url.password !== '' || /[?#]/.test(text))
    throw new Error('the witness’s URL must have no user, query or fragment');
  return `${url.origin}${url.pathname}`.replace(/\/$/, '');
}

function parseVerifierKey(text: string): Omit<Witness, 'url'> {
  const [, name = '', hex = '', encoded = ''] =
    /^([^\s+]+)\+([0-9a-f]{8})\+([A-Za-z0-9+/]+=*)$/.exec(text) ?? [];
  const content = Buffer.from(encoded, 'base64');
  if (content.length !== 1 + KEY_BYTES || content[0] !== ALGORITHM)
    throw new Error(
      `"${text}" must be a cosigner’s verifier key: name+hash+key, for Ed25519 cosignatures`,
    );
  const id = hash('sha256', Buffer.concat([Buffer.from(`${name}\n`), content]), 'buffer').subarray(
    0,
    ID_BYTES,
  );
  if (id.toString('hex') !== hex)
    throw new Error(`the verifier key of ${name} does not have the hash that it names`);
  const spki = Buffer.concat([ED25519_SPKI, content.subarray(1)]);
  return { name, id, key: createPublicKey({ key: spki, format: 'der', type: 'spki' }) };
}

/**
 * Those signature lines of a note over `text` that are these witnesses' cosignatures; undefined
 * when one of them doesn't verify. Lines of others are left out.
 */
export function cosignaturesOf(
  text: string,
  lines: readonly string[],
  witnesses: readonly Witness[],
): string[] | undefined {
  const verified: string[] = [];
  for (const line of lines) {
    const [, name, encoded = ''] = line.split(' ');
    const bytes = Buffer.from(encoded, 'base64');
    const witness = witnesses.find(
      (each) => each.name === name && bytes.subarray(0, ID_BYTES).equals(each.id),
    );
    if (witness === undefined) continue;
    if (!verifies(text, bytes.subarray(ID_BYTES), witness)) return undefined;
    verified.push(line);
  }
  return verified;
}

function verifies(text: string, stamped: Buffer, { key }: Witness): boolean {
  if (stamped.length !== TIME_BYTES + SIGNATURE_BYTES) return false;
  const seconds = stamped.readBigUInt64BE();
  if (seconds > LAST_SECOND) return false;
  const signed = Buffer.from(`cosignature/v1\ntime ${seconds}\n${text}`);
  return verify(null, signed, key, stamped.subarray(TIME_BYTES));
}
