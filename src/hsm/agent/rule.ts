/**
 * Reads the rule that agents hold: whose approval, by which passkeys, they want before they seal
 * what grants power, and how many people's for what.
 *
 * - The agent reads the file itself, named by its own environment, once at its start: no server
 *   hands it one.
 * - A file that is not wholly understood, or that somebody else could write, is refused.
 */
import { closeSync, fstatSync, openSync, readFileSync } from 'node:fs';
import { AGENT_NEEDS, type AgentNeed, type AgentRuleReport } from '../agent-rule.ts';
import { PASSKEY_ALGORITHMS } from '../approval-records.ts';
import { type AssertedPasskey, isKeyOf } from '../assertion.ts';
import { AgentFailure } from './failure.ts';

/** The variable that names the file, in the agent's environment. */
export const RULE_VARIABLE = 'KEYWARD_AGENT_RULE';

/** A passkey that the rule trusts, and whose it is. */
export interface TrustedPasskey extends AssertedPasskey {
  readonly name: string;
}

/** The rule that an agent holds. */
export interface AgentRule {
  /** How many different persons must have approved; 0 for none. */
  readonly approvals: Readonly<Record<AgentNeed, number>>;
  /** By the credential's id in base64url. */
  readonly passkeys: ReadonlyMap<string, TrustedPasskey>;
}

const MAX_BYTES = 1024 * 1024;
/** As many as an approval rule of the service can want. */
const MAX_APPROVALS = 5;
const WRITABLE_BY_OTHERS = 0o022;

/** Returns the rule in the file; undefined where none is named. Throws `refused`. */
export function readRule(path: string | undefined): AgentRule | undefined {
  if (path === undefined || path === '') return undefined;
  try {
    return parseRule(readOwn(path));
  } catch (error) {
    const { message } = error as Error;
    throw new AgentFailure('refused', `cannot use the agents’ rule in ${path}: ${message}`);
  }
}

/** Returns what the server may know of a rule. */
export function reportOf({ approvals, passkeys }: AgentRule): AgentRuleReport {
  return { approvals, approvers: [...new Set([...passkeys.values()].map(({ name }) => name))] };
}

function readOwn(path: string): string {
  const descriptor = openSync(path, 'r');
  try {
    const { mode, uid, size } = fstatSync(descriptor);
    if ((mode & WRITABLE_BY_OTHERS) !== 0) throw new Error('others can write it; chmod 644 it');
    if (uid !== 0 && uid !== process.geteuid?.())
      throw new Error('it belongs to another user than the agent’s or root');
    if (size > MAX_BYTES) throw new Error(`it has more than ${MAX_BYTES} bytes`);
    return readFileSync(descriptor, 'utf8');
  } finally {
    closeSync(descriptor);
  }
}

/** Returns the rule that a text says. Throws Error, in words for the operator. */
export function parseRule(text: string): AgentRule {
  const rule = object(JSON.parse(text), 'the file', [
    'relyingPartyId',
    'approvers',
    'approvals',
  ] as const);
  const relyingPartyId = textOf(rule.relyingPartyId, 'relyingPartyId');
  const approvers = listOf(rule.approvers, 'approvers');
  const names = new Set<string>();
  const passkeys = new Map<string, TrustedPasskey>();
  for (const each of approvers) {
    const approver = object(each, 'an approver', ['name', 'passkeys'] as const);
    const name = textOf(approver.name, 'name');
    if (names.has(name)) throw new Error(`it names ${name} twice`);
    names.add(name);
    for (const passkey of listOf(approver.passkeys, `the passkeys of ${name}`)) {
      const { credentialId, ...trusted } = passkeyOf(passkey);
      if (passkeys.has(credentialId)) throw new Error(`it has the passkey ${credentialId} twice`);
      passkeys.set(credentialId, { ...trusted, relyingPartyId, name });
    }
  }
  return { approvals: approvalsOf(rule.approvals, names.size), passkeys };
}

function approvalsOf(json: unknown, people: number): AgentRule['approvals'] {
  const given = object(json, 'approvals', AGENT_NEEDS);
  for (const need of AGENT_NEEDS) {
    const count = given[need];
    if (!Number.isInteger(count) || Number(count) < 0 || Number(count) > MAX_APPROVALS)
      throw new Error(`${need} must be 0 to ${MAX_APPROVALS}`);
    if (Number(count) > people)
      throw new Error(`${need} wants ${count} people to approve, and it names ${people}`);
  }
  return given as AgentRule['approvals'];
}

function passkeyOf(json: unknown) {
  const names = ['credentialId', 'publicKey', 'algorithm', 'deviceBound'] as const;
  const passkey = object(json, 'a passkey', names);
  const credentialId = textOf(passkey.credentialId, 'credentialId');
  const algorithm = Object.entries(PASSKEY_ALGORITHMS).find(
    ([name]) => name === passkey.algorithm,
  )?.[1];
  if (algorithm === undefined)
    throw new Error(`algorithm must be ${Object.keys(PASSKEY_ALGORITHMS).join(', ')}`);
  const publicKey = base64url(passkey.publicKey, 'publicKey');
  if (!isKeyOf(algorithm, publicKey))
    throw new Error(`the publicKey of ${credentialId} is no key of its algorithm`);
  base64url(credentialId, 'credentialId');
  if (typeof passkey.deviceBound !== 'boolean')
    throw new Error('deviceBound must be true or false');
  // Nothing is remembered of a counter: what is signed is good for one request alone.
  const isBackupEligible = !passkey.deviceBound;
  return { credentialId, algorithm, publicKey, isBackupEligible, signCount: 0 };
}

function object<const Name extends string>(
  json: unknown,
  what: string,
  names: readonly Name[],
): Readonly<Record<Name, unknown>> {
  if (json === null || typeof json !== 'object' || Array.isArray(json))
    throw new Error(`${what} must be an object`);
  const unknown = Object.keys(json).find((name) => !names.some((each) => each === name));
  if (unknown !== undefined) throw new Error(`${what} has ${unknown}, which is not known`);
  const missing = names.find((name) => !Object.hasOwn(json, name));
  if (missing !== undefined) throw new Error(`${what} has no ${missing}`);
  return json as Readonly<Record<Name, unknown>>;
}

function textOf(json: unknown, what: string): string {
  if (typeof json !== 'string' || json === '') throw new Error(`${what} must be a text`);
  return json;
}

function listOf(json: unknown, what: string): readonly unknown[] {
  if (!Array.isArray(json) || json.length === 0)
    throw new Error(`${what} must be a list that is not empty`);
  return json;
}

function base64url(json: unknown, what: string): Buffer {
  const bytes = Buffer.from(textOf(json, what), 'base64url');
  if (bytes.toString('base64url') !== json)
    throw new Error(`${what} must be base64url without padding`);
  return bytes;
}
