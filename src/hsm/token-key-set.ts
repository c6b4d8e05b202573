/**
 * The token keys and tokens of an environment, as bytes: what their one seal is computed over,
 * behind what `record-seal.ts` puts before it.
 *
 * Owns this encoding alone. Invariant: two sets have one encoding only if they are the same, so
 * that none can be hidden, added, made current or moved to another tenant or token. Of a token that
 * served before it is sealed which keys are in it, and not which of them are retired, abandoned or
 * destroyed: nothing comes under them, and whoever destroys them has no other token at hand.
 */
import { createHash } from 'node:crypto';
import { type AnyId, idToBytes, type TenantId, type TokenId } from '../ids.ts';

/** One token key. */
export interface TokenKeyStanding {
  readonly objectId: AnyId;
  readonly tenantId: TenantId;
  readonly tokenId: TokenId;
  readonly role: string;
  readonly state: string;
  readonly isCurrent: boolean;
}

/** One token. */
export interface TokenStanding {
  readonly tokenId: TokenId;
  readonly state: string;
  readonly label: string | null;
  readonly serialNumber: string | null;
  /** Anything that JSON keeps as it is. */
  readonly profile: unknown;
}

/** All of an environment's. */
export interface TokenKeySetContent {
  readonly revision: bigint;
  readonly tokens: readonly TokenStanding[];
  readonly objects: readonly TokenKeyStanding[];
}

const TOKEN_STATES = ['CURRENT', 'NEXT', 'FORMER'];
const ROLES = ['root', 'seal', 'mask', 'audit-signing'];
const STATES = [
  'CREATING',
  'CREATED',
  'CURRENT',
  'RETIRED',
  'ABANDONED',
  'DESTROYING',
  'DESTROYED',
];
const IN_FORMER = 0;
const LEFT_BEHIND = ['RETIRED', 'ABANDONED', 'DESTROYING', 'DESTROYED'];
const NO_DIGEST = Buffer.alloc(32);

/**
 * The set as bytes, of the same length whatever is in it. The order of what is given doesn't
 * matter. Throws RangeError for what no set can be.
 */
export function encodeTokenKeySet({ revision, tokens, objects }: TokenKeySetContent): Buffer {
  const head = Buffer.alloc(8);
  head.writeBigUInt64BE(revision);
  const former = new Set(
    tokens.filter(({ state }) => state === 'FORMER').map(({ tokenId }) => tokenId),
  );
  const tokenParts = inOrder(tokens, ({ tokenId }) => tokenId).map(encodeToken);
  const objectParts = inOrder(objects, ({ objectId }) => objectId).map((object) =>
    encodeObject(object, former.has(object.tokenId)),
  );
  return Buffer.concat([head, digestOf(tokenParts), digestOf(objectParts)]);
}

/** SHA-256(u32 n ‖ n × part). */
function digestOf(parts: readonly Buffer[]): Buffer {
  const count = Buffer.alloc(4);
  count.writeUInt32BE(parts.length);
  const hash = createHash('sha256').update(count);
  for (const part of parts) hash.update(part);
  return hash.digest();
}

/** Token UUID ‖ u8 state ‖ label ‖ serial number ‖ SHA-256 of the profile. */
function encodeToken({ tokenId, state, label, serialNumber, profile }: TokenStanding): Buffer {
  const digest =
    profile === null ? NO_DIGEST : createHash('sha256').update(canonicalJson(profile)).digest();
  return Buffer.concat([
    idToBytes(tokenId),
    Buffer.of(codeOf(TOKEN_STATES, state)),
    encodeText(label),
    encodeText(serialNumber),
    digest,
  ]);
}

/** Object UUID ‖ tenant UUID ‖ token UUID ‖ u8 role ‖ u8 state ‖ u8 current. */
function encodeObject(object: TokenKeyStanding, isInFormer: boolean): Buffer {
  const { objectId, tenantId, tokenId, role, state, isCurrent } = object;
  const standing = isInFormer && LEFT_BEHIND.includes(state) ? IN_FORMER : codeOf(STATES, state);
  return Buffer.concat([
    ...[objectId, tenantId, tokenId].map(idToBytes),
    Buffer.of(codeOf(ROLES, role), standing, isCurrent ? 1 : 0),
  ]);
}

/** u8 1 ‖ u16 length ‖ UTF-8; three zeros for none. */
function encodeText(text: string | null): Buffer {
  if (text === null) return Buffer.alloc(3);
  const bytes = Buffer.from(text, 'utf8');
  const head = Buffer.alloc(3, 1);
  head.writeUInt16BE(bytes.length, 1);
  return Buffer.concat([head, bytes]);
}

/** JSON with objects' members in the order of their names, and no white space (RFC 8785). */
function canonicalJson(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(canonicalJson).join(',')}]`;
  if (typeof value !== 'object' || value === null) return JSON.stringify(value);
  const members = Object.entries(value)
    .filter(([, member]) => member !== undefined)
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([name, member]) => `${JSON.stringify(name)}:${canonicalJson(member)}`);
  return `{${members.join(',')}}`;
}

function inOrder<T>(all: readonly T[], idOf: (one: T) => string): T[] {
  return [...all].sort((a, b) => (idOf(a) < idOf(b) ? -1 : 1));
}

function codeOf(names: readonly string[], name: string): number {
  const index = names.indexOf(name);
  if (index < 0) throw new RangeError(`there is no ${JSON.stringify(name)}`);
  return index + 1;
}
