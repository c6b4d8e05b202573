/**
 * The lines of a policy as text: one added or taken away where it belongs. What a line says, and
 * what is sealed of all of them, `policy-record.ts` has.
 */
import { createHash } from 'node:crypto';
import { idToBytes, type TenantId } from '../ids.ts';

/** What a line is of. */
export interface PolicyLine {
  readonly kind: 'binding' | 'role';
  readonly id: string;
  /** All that the line says, in its order. */
  readonly values: readonly unknown[];
}

/** Returns what the seal of a policy with these lines is over. */
export function policyDigest(tenantId: TenantId, revision: bigint, lines: Buffer): Buffer {
  const number = Buffer.alloc(8);
  number.writeBigUInt64BE(revision);
  return Buffer.concat([idToBytes(tenantId), number, createHash('sha256').update(lines).digest()]);
}

/** Returns the line as it was read. Throws RangeError for what is none. */
export function readPolicyLine(text: string): PolicyLine {
  if (text.includes('\n')) throw new RangeError('a line of a policy is more than one');
  let values: unknown;
  try {
    values = JSON.parse(text);
  } catch {
    throw new RangeError('a line of a policy is not JSON');
  }
  if (!Array.isArray(values)) throw new RangeError('a line of a policy is not a list');
  const [kind, id] = values as unknown[];
  if ((kind !== 'binding' && kind !== 'role') || typeof id !== 'string')
    throw new RangeError('a line of a policy is of no known kind');
  return { kind, id, values };
}

/**
 * Returns the lines with one more, in its place. Throws RangeError where there is one of its kind
 * and id.
 */
export function withLine(lines: Buffer, text: string): Buffer {
  const added = readPolicyLine(text);
  const before = linesOf(lines);
  const at = placeFor(added, before);
  const next = before[at];
  if (next !== undefined && !isBefore(added, readPolicyLine(next)))
    throw new RangeError(`the policy has the ${added.kind} ${added.id} already`);
  return joined([...before.slice(0, at), text, ...before.slice(at)]);
}

/** Returns how many of the lines come before. Few are read: an agent that serves does it. */
function placeFor(added: PolicyLine, lines: readonly string[]): number {
  let [low, high] = [0, lines.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (isBefore(readPolicyLine(lines[middle] ?? ''), added)) low = middle + 1;
    else high = middle;
  }
  return low;
}

/**
 * Returns the lines without one. Throws RangeError where it is not among them, and for a role that
 * a binding gives.
 */
export function withoutLine(lines: Buffer, text: string): Buffer {
  const { kind, id } = readPolicyLine(text);
  const before = linesOf(lines);
  if (!before.includes(text)) throw new RangeError(`the policy has no ${kind} ${id}`);
  const after = before.filter((each) => each !== text);
  if (kind === 'role' && after.some((each) => gives(readPolicyLine(each), id)))
    throw new RangeError(`a binding gives the role ${id}`);
  return joined(after);
}

const ROLE_IN_BINDING = 4;

function gives({ kind, values }: PolicyLine, roleId: string): boolean {
  const role = values[ROLE_IN_BINDING];
  return kind === 'binding' && typeof role === 'string' && role.endsWith(`/roles/${roleId}`);
}

/** Bindings come before roles, and each by their ids, which are ASCII. */
function isBefore(a: PolicyLine, b: PolicyLine): boolean {
  return a.kind === b.kind ? a.id < b.id : a.kind < b.kind;
}

function linesOf(lines: Buffer): string[] {
  const text = lines.toString('utf8');
  if (text === '') return [];
  if (!text.endsWith('\n')) throw new RangeError('the last line of a policy does not end');
  return text.slice(0, -1).split('\n');
}

function joined(lines: readonly string[]): Buffer {
  return Buffer.from(lines.map((line) => `${line}\n`).join(''));
}
