/**
 * Whether as many people as the agent's rule wants have approved a request: by the passkeys that
 * the rule trusts, whatever the server says of them.
 *
 * - A person counts once, and the requester never; only those whom the rule names.
 * - What was signed is this request, of this requester, in this environment, to approve it, and its
 *   time is not over by the agent's clock.
 */
import { hash } from 'node:crypto';
import type { Warrant } from '../../call.ts';
import type { EnvironmentId } from '../../ids.ts';
import type { AgentNeed } from '../agent-rule.ts';
import { challengeOf } from '../approval-records.ts';
import { verifyAssertion } from '../assertion.ts';
import { type JsonObject, parseCanonicalJson } from '../canonical-json.ts';
import { VERDICT } from '../protocol.ts';
import { AgentFailure } from './failure.ts';
import type { AgentRule } from './rule.ts';

/** What was approved can still be done for so long after its expiry, as the service has it. */
const GRACE_MS = 3_600_000;
/** No operation waits for longer: seven days, and a clock that is wrong. */
const LONGEST_MS = 8 * 24 * 3_600_000;

/** A request that enough people have approved. */
export interface Approved extends Omit<Warrant, 'request' | 'assertions'> {
  readonly request: JsonObject;
}

/** Returns a failure of what the rule wants. */
export function notApproved(why: string): AgentFailure {
  return new AgentFailure('not-approved', `cannot seal the change by the agents’ rule: ${why}`);
}

/** Returns the approved request. Throws `not-approved`. */
export function requireApproved(
  need: AgentNeed,
  warrant: Warrant | undefined,
  { rule, environmentId }: { readonly rule: AgentRule; readonly environmentId: EnvironmentId },
): Approved {
  const wanted = rule.approvals[need];
  const people = wanted === 1 ? '1 person' : `${wanted} people`;
  if (warrant === undefined)
    throw notApproved(`it wants ${people} to have approved it, and no approval was shown`);
  requireInTime(warrant.expiresAt);
  const { request: text, assertions: _, ...facts } = warrant;
  const names = approversOf(warrant, rule, environmentId);
  if (names.size < wanted)
    throw notApproved(`it wants ${people} to have approved it, and ${names.size} did`);
  try {
    return { ...facts, request: parseCanonicalJson(text) };
  } catch {
    throw notApproved('what was approved is no canonical request');
  }
}

function requireInTime(expiresAt: Date): void {
  const left = expiresAt.getTime() - Date.now();
  if (left <= -GRACE_MS) throw notApproved('the time for it is over');
  if (left > LONGEST_MS) throw notApproved('its expiry is too far away');
}

/** Returns the names of those whom the rule trusts and who have approved the request. */
function approversOf(
  { operationId, method, request, requester, expiresAt, assertions }: Warrant,
  { passkeys }: AgentRule,
  environmentId: EnvironmentId,
): ReadonlySet<string> {
  const requestDigest = hash('sha256', request, 'buffer');
  const facts = { environmentId, operationId, method, requestDigest, requester, expiresAt };
  const challenge = challengeOf({ ...facts, decision: 'approve' });
  const names = new Set<string>();
  for (const { credentialId, ...assertion } of assertions) {
    const passkey = passkeys.get(credentialId.toString('base64url'));
    if (passkey === undefined || passkey.name === requester) continue;
    if (verifyAssertion(passkey, challenge, assertion) === VERDICT.done) names.add(passkey.name);
  }
  return names;
}
