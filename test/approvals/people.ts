/**
 * What the tests of approvals share: a service with tenants whose rules want others to approve,
 * people with passkeys, and what they do over the wire: ask, look, approve, reject.
 *
 * Passkeys are of authenticators in software. Knows no test.
 */
import assert from 'node:assert/strict';
import { type SignedAssertion, SoftwareAuthenticator } from '../../dev/authenticator.ts';
import { registrationAssertionChallenge } from '../../src/approvals/passkeys.ts';
import { digestOf } from '../../src/approvals/pending-seals.ts';
import { challengeOf, type Decision } from '../../src/hsm/approval-records.ts';
import type { EnvironmentId, OperationId } from '../../src/ids.ts';
import { AccessRig, type AuditRow, type Caller } from '../access/access-rig.ts';
import type { Outcome } from '../access/outcome.ts';
import { eventually, type Service } from '../support/kit.ts';
import { QUICK, sql } from '../support/reconciling.ts';

export const RELYING_PARTY = 'keyward.test';
/** Have passkeys and do nothing, so that rules can want so many approvals. */
const BYSTANDERS = ['spiffe://keyward.test/bystander-1', 'spiffe://keyward.test/bystander-2'];

/** Someone who asks or approves. */
export interface Person {
  /** As role bindings and rules name them. */
  readonly name: string;
  readonly caller: Caller;
  readonly authenticator: SoftwareAuthenticator;
  /** Their passkeys. */
  readonly credentials: readonly Buffer[];
}

/** A pending operation, as far as tests look at it. */
export interface Operation {
  readonly name: string;
  readonly state: string;
  readonly method: string;
  readonly request: Buffer;
  readonly preview: Buffer;
  readonly requester: string;
  readonly rule: string;
  readonly environmentId: string;
  readonly errorReason: string;
  readonly errorMessage: string;
  readonly isGlassBroken: boolean;
  readonly expireTime: { readonly seconds: number; readonly nanos: number };
  readonly decisions: readonly { readonly approver: string; readonly decision: string }[];
}

/** An approval rule, as tests want it otherwise. */
export type RuleChanges = Readonly<Record<string, unknown>>;

/** What else a decision brings. */
export interface DecisionChanges {
  /** Which of the passkeys decides. */
  readonly credential?: Buffer | undefined;
  readonly requestId?: string;
  /** The operation that is signed, where that is another. */
  readonly signs?: Operation;
  /** Whether the authenticator has verified who signs; it has, if absent. */
  readonly userVerified?: boolean;
  readonly service?: Service;
}

/** People, and a service that has them approve. */
export class People implements AsyncDisposable {
  readonly rig: AccessRig;
  #made = 0;

  private constructor(rig: AccessRig) {
    this.rig = rig;
  }

  static async start(variables: Readonly<Record<string, string>> = {}): Promise<People> {
    const rig = await AccessRig.start({
      ...QUICK,
      KEYWARD_RELYING_PARTY_ID: RELYING_PARTY,
      ...variables,
    });
    const bystanders = BYSTANDERS.map((name) => ({ name, caller: rig.certified(name) }));
    await registerPasskeys(rig, bystanders);
    return new People(rig);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.rig[Symbol.asyncDispose]();
  }

  #number(): number {
    this.#made += 1;
    return this.#made;
  }

  /**
   * A tenant with a rule: that destroying keys in it wants another person's approval. Returns the
   * last part of its name.
   */
  async tenant(...rules: readonly RuleChanges[]): Promise<string> {
    const tenantId = `t${this.#number()}`;
    await this.rig.done('AdminService/CreateTenant', { tenantId });
    await this.setRules(tenantId, rules.length === 0 ? [{}] : rules);
    return tenantId;
  }

  /** Sets a tenant's rules. */
  async setRules(tenant: string, rules: readonly RuleChanges[]): Promise<void> {
    const name = `tenants/${tenant}/approvalRules`;
    const { etag } = await this.rig.done('ApprovalService/GetApprovalRules', { name });
    await this.rig.done('ApprovalService/UpdateApprovalRules', {
      approvalRules: {
        ...{ name, etag },
        approvalRules: rules.map((changes, index) => ({
          ruleId: `rule-${index}`,
          permissions: ['keys.destroy'],
          approvals: 1,
          ...changes,
        })),
      },
    });
  }

  /** A key that nothing was done with. Returns its name. */
  async key(tenant: string): Promise<string> {
    const keyId = `k${this.#number()}`;
    await this.rig.done('KeyService/CreateKey', { parent: `tenants/${tenant}`, keyId });
    return `tenants/${tenant}/keys/${keyId}`;
  }

  /** A person with these roles in the tenant, and so many passkeys. */
  async person(tenant: string, roles: readonly string[], passkeys = 0): Promise<Person> {
    const name = `spiffe://keyward.test/p${this.#number()}`;
    const caller = this.rig.certified(name);
    for (const role of roles) await this.rig.bind(tenant, name, role);
    const authenticator = new SoftwareAuthenticator({
      rpId: RELYING_PARTY,
      origin: `https://${RELYING_PARTY}`,
    });
    const credentials: Buffer[] = [];
    const person = { name, caller, authenticator, credentials };
    for (let each = 0; each < passkeys; each += 1) {
      const { request, credentialId } = await this.newPasskey(tenant, person);
      await this.rig.done('PasskeyService/RegisterPasskey', request, caller);
      credentials.push(credentialId);
    }
    return person;
  }

  /** Someone who may ask for the destruction of keys. */
  requester(tenant: string): Promise<Person> {
    return this.person(tenant, ['keyAdmin']);
  }

  /** Someone who may approve, with a passkey. */
  approver(tenant: string): Promise<Person> {
    return this.person(tenant, ['approver'], 1);
  }

  /** The request that registers another passkey of the person’s, vouched for by their first. */
  async newPasskey(
    tenant: string,
    { caller, authenticator, credentials: [by] }: Omit<Person, 'name'>,
  ): Promise<{ readonly request: object; readonly credentialId: Buffer }> {
    const parent = `tenants/${tenant}`;
    const options = await this.rig.done(
      'PasskeyService/BeginPasskeyRegistration',
      { parent },
      caller,
    );
    const json = JSON.parse(String(options['creationOptionsJson']));
    const made = authenticator.create(JSON.stringify({ ...json, excludeCredentials: [] }));
    const { credentialId, clientDataJson, attestationObject } = made;
    const challenge = registrationAssertionChallenge(made);
    const assertion =
      by === undefined ? undefined : authenticator.get({ challenge, credentialId: by });
    const answer = { credentialId, clientDataJson, attestationObject };
    return { request: { parent, ...answer, displayName: 'test', assertion }, credentialId };
  }

  /** The request that destroys the key as it is now. */
  async destruction(key: string): Promise<object> {
    const preview = await this.rig.done('KeyService/ScheduleKeyDestruction', {
      ...{ name: key, windowDays: 7, validateOnly: true },
    });
    const { etag } = preview['impact'] as { readonly etag: string };
    return { name: key, windowDays: 7, etag };
  }

  /** Asks for the key's destruction, which must wait. Returns the operation's name. */
  async ask(requester: Person, key: string): Promise<string> {
    const request = await this.destruction(key);
    const outcome = await this.rig.ask(
      requester.caller,
      'KeyService/ScheduleKeyDestruction',
      request,
    );
    assert.equal(outcome.reason, 'APPROVAL_REQUIRED', outcome.message);
    return String(outcome.metadata['operation']);
  }

  async get(name: string, caller = this.rig.tester): Promise<Operation> {
    const got = await this.rig.done('ApprovalService/GetPendingOperation', { name }, caller);
    return got as unknown as Operation;
  }

  /** What one of the person’s passkeys signs to decide so, their first unless said otherwise. */
  async signed(
    { authenticator, credentials }: Person,
    name: string,
    decision: Decision,
    changes: Pick<DecisionChanges, 'credential' | 'signs' | 'userVerified'> = {},
  ): Promise<SignedAssertion> {
    const { credential: credentialId = credentials[0], userVerified = true } = changes;
    assert.ok(credentialId);
    const challenge = challengeBy(changes.signs ?? (await this.get(name)), decision);
    return authenticator.get({ challenge, credentialId, userVerified });
  }

  /** Decides, by what {@link People.signed} returns. */
  async decide(
    person: Person,
    name: string,
    decision: Decision = 'approve',
    changes: DecisionChanges = {},
  ): Promise<Outcome> {
    const { requestId = '', service = this.rig.service } = changes;
    const assertion = await this.signed(person, name, decision, changes);
    const method = decision === 'approve' ? 'ApproveOperation' : 'RejectOperation';
    return this.rig.ask(
      person.caller,
      `ApprovalService/${method}`,
      { name, assertion, requestId },
      service,
    );
  }

  /** Decides, which must succeed. */
  async decided(...[person, name, decision, changes]: Parameters<People['decide']>): Promise<void> {
    const { reason, message } = await this.decide(person, name, decision, changes);
    assert.equal(reason, 'OK', message);
  }

  /** Waits until the operation is in that state, and returns it. */
  until(name: string, state: string): Promise<Operation> {
    return eventually(async () => {
      const operation = await this.get(name);
      assert.equal(operation.state, `PENDING_OPERATION_STATE_${state}`, operation.errorReason);
      return operation;
    });
  }

  /** The state of a key. */
  async stateOf(key: string): Promise<string> {
    const { state } = await this.rig.done('KeyService/GetKey', { name: key });
    return String(state);
  }

  /** The operation's state as its row has it, which needs no replica. */
  async storedState(operation: string): Promise<string> {
    const [row] = await sql<{ state: string }>(
      this.rig.environment,
      'SELECT state FROM pending_operations WHERE operation_id = $1',
      [idOf(operation)],
    );
    return String(row?.state);
  }

  /** The entries of the audit log that name the operation in their details or as their resource. */
  async entries(operation: string): Promise<AuditRow[]> {
    const all = await this.rig.audited();
    return all.filter(
      ({ detail, resource }) => resource === operation || detail?.includes(`"${operation}"`),
    );
  }

  /** Keeps every replica from doing the operation, or lets them. */
  async hold(operation: string, isHeld: boolean): Promise<void> {
    await sql(
      this.rig.environment,
      `UPDATE pending_operations SET attempt_after = $2::timestamptz WHERE operation_id = $1`,
      [idOf(operation), isHeld ? 'infinity' : '-infinity'],
    );
  }
}

/** Has these callers register a passkey each, so that rules can want their approval. */
export async function registerPasskeys(
  rig: AccessRig,
  people: readonly Pick<Person, 'name' | 'caller'>[],
  rpId = RELYING_PARTY,
): Promise<void> {
  for (const { name, caller } of people) {
    await rig.bind('acme', name, 'approver');
    const options = await rig.done('PasskeyService/BeginPasskeyRegistration', {}, caller);
    const authenticator = new SoftwareAuthenticator({ rpId, origin: `https://${rpId}` });
    const made = authenticator.create(String(options['creationOptionsJson']));
    const { credentialId, clientDataJson, attestationObject } = made;
    await rig.done(
      'PasskeyService/RegisterPasskey',
      {
        ...{ parent: 'tenants/acme', displayName: 'test' },
        ...{ credentialId, clientDataJson, attestationObject },
      },
      caller,
    );
  }
}

/** The UUID of an operation. */
export function idOf(operation: string): OperationId {
  return operation.slice(operation.lastIndexOf('/') + 1) as OperationId;
}

/** What is signed to decide so, by what the operation says of itself. */
export function challengeBy(operation: Operation, decision: Decision): Buffer {
  const { method, requester, expireTime } = operation;
  return challengeOf({
    environmentId: operation.environmentId as EnvironmentId,
    operationId: idOf(operation.name),
    ...{ method, requester, decision },
    requestDigest: digestOf(operation.request),
    expiresAt: new Date(Number(expireTime.seconds) * 1_000 + Math.round(expireTime.nanos / 1e6)),
  });
}
