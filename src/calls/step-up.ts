/**
 * Step-up (RFC 9470): what approval rules want of a caller's proof, asked for wherever a permission
 * is used.
 *
 * - A proof counts as it is at this moment: one that has grown too old in the meantime is refused,
 *   however long its connection or stream has been open.
 * - A caller whose proof says nothing of its strength (a certificate, a token of an issuer that is
 *   not trusted for it) meets no rule that is not for others only.
 * - While rules do not verify, nothing dangerous is allowed; while they cannot be read, nothing is.
 */
import { LEEWAY_SECONDS } from '../access/claims.ts';
import type { Caller } from '../access/identity.ts';
import { isDangerous, type Permission } from '../access/permissions.ts';
import { concerns, type RuleBook } from '../approvals/rule-book.ts';
import { KeywardError, toKeywardError } from '../errors.ts';
import type { StepUpRule } from '../hsm/approval-rules.ts';

/** Throws where a caller's proof lacks what rules want for the use of a permission. */
export type ProofCheck = (permission: Permission) => void;

export interface StepUpParts {
  readonly rules: Pick<RuleBook, 'stepUpRules'>;
}

/** Asks for what approval rules want of a caller's proof. */
export class StepUp {
  readonly #rules: StepUpParts['rules'];

  constructor({ rules }: StepUpParts) {
    this.#rules = rules;
  }

  /**
   * Returns what checks the caller's proof in the tenant, which throws STEP_UP_REQUIRED, and where
   * the rules could not be had, why. Never rejects.
   */
  async checkFor(tenant: string, caller: Caller): Promise<ProofCheck> {
    try {
      const { rules, failure } = await this.#rules.stepUpRules(tenant);
      return (permission) => {
        if (failure !== undefined && isDangerous(permission)) throw failure;
        requireProof(rules, permission, caller);
      };
    } catch (error) {
      const failure = toKeywardError(error);
      return () => {
        throw failure;
      };
    }
  }
}

/** Throws STEP_UP_REQUIRED where the caller's proof lacks what one of the rules wants. */
export function requireProof(
  rules: readonly StepUpRule[],
  permission: Permission,
  caller: Caller,
): void {
  if (rules.length === 0) return;
  const concerned = rules.filter(concerns(permission, caller));
  const now = Date.now();
  if (concerned.every((rule) => isMet(rule, caller, now))) return;
  throw stepUpRequired(concerned, permission, caller);
}

function isMet(rule: StepUpRule, { authentication }: Caller, now: number): boolean {
  const { acr, methods, at } = authentication ?? {};
  if (methods === undefined || at === undefined) return false;
  const isStrong =
    (rule.acrValues.length === 0 || (acr !== undefined && rule.acrValues.includes(acr))) &&
    rule.amrValues.every((method) => methods.includes(method));
  return isStrong && now < at.getTime() + (rule.maxAgeSeconds + LEEWAY_SECONDS) * 1_000;
}

/** What a proof must be to meet all the rules, as RFC 9470 asks for it. */
function stepUpRequired(
  rules: readonly StepUpRule[],
  permission: Permission,
  caller: Caller,
): KeywardError {
  const acrValues = acrFor(rules).join(' ');
  const amrValues = [...new Set(rules.flatMap((rule) => rule.amrValues))].join(' ');
  const maxAge = String(Math.min(...rules.map(({ maxAgeSeconds }) => maxAgeSeconds)));
  const wanted = [
    ...(acrValues === '' ? [] : [`acr one of ${acrValues}`]),
    ...(amrValues === '' ? [] : [`amr with ${amrValues}`]),
    `at most ${maxAge} s old`,
  ].join(', ');
  return new KeywardError('STEP_UP_REQUIRED', {
    message:
      `cannot perform the call: ${permission} needs a fresh proof of who calls (${wanted}); ` +
      remedyFor(caller),
    metadata: {
      permission,
      ...(acrValues === '' ? {} : { acr_values: acrValues }),
      ...(amrValues === '' ? {} : { amr_values: amrValues }),
      max_age: maxAge,
    },
  });
}

/** Those that every rule takes which asks for one; where there are none, those of the first. */
function acrFor(rules: readonly StepUpRule[]): readonly string[] {
  const [first, ...others] = rules
    .map(({ acrValues }) => acrValues)
    .filter((all) => all.length > 0);
  const common = first?.filter((acr) => others.every((each) => each.includes(acr))) ?? [];
  return common.length > 0 ? common : (first ?? []);
}

function remedyFor({ authentication, token }: Caller): string {
  if (token === undefined)
    return (
      'a certificate is none: call with a token of a person who has signed in, or have an ' +
      'administrator exempt this caller in the approval rules'
    );
  if (authentication === undefined)
    return (
      `tokens of ${token.issuer} are none: its entry in the issuers file lacks ` +
      'vouchesForAuthentication'
    );
  return 'sign in again';
}
