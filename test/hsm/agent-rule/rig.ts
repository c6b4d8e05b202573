/**
 * What the tests of the agents' rule share: an environment whose agents hold one, people with
 * passkeys, and what a server that was taken over says to agents: requests as the contract has
 * them, what people have signed of them, and records of before.
 *
 * Records of before are sealed by agents without a rule, as those before it was placed. Knows no
 * test.
 */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { chmodSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { MethodDefinition, ServiceDefinition } from '@grpc/grpc-js';
import { SoftwareAuthenticator } from '../../../dev/authenticator.ts';
import { monotonicNow, type SealedContent, type Warrant } from '../../../src/call.ts';
import { tokenSettings } from '../../../src/commands/agents-opening.ts';
import { read, TOKEN_SETTINGS } from '../../../src/config.ts';
import { canonicalRequest } from '../../../src/faces/contract/canonical.ts';
import { packageDefinition } from '../../../src/faces/contract/proto.ts';
import { AGENT_NEEDS, type AgentNeed } from '../../../src/hsm/agent-rule.ts';
import { childAgents } from '../../../src/hsm/agent-starter.ts';
import type { HsmAgents } from '../../../src/hsm/agents.ts';
import { challengeOf, type Decision } from '../../../src/hsm/approval-records.ts';
import type { RequestOf } from '../../../src/hsm/protocol.ts';
import { RECORD, type RecordKind } from '../../../src/hsm/record-seal.ts';
import { encodeTenantState, type TenantState } from '../../../src/hsm/tenant-state.ts';
import type { TokenProfile } from '../../../src/hsm/token-profile.ts';
import {
  type AnyId,
  type EnvironmentId,
  newId,
  type OperationId,
  type SealKeyId,
  type TenantId,
} from '../../../src/ids.ts';
import { readEnvironment } from '../../../src/store/environment.ts';
import { Store } from '../../../src/store/store.ts';
import { RELEASE } from '../../store/database.ts';
import { openAgents } from '../../support/grants.ts';
import { type Environment, newEnvironment } from '../../support/kit.ts';

export const RELYING_PARTY = 'keyward.example';
export const HOUR = 3_600_000;
/** Who asks. */
export const ANNA = 'spiffe://keyward.test/anna';

/** Who approves, with an authenticator. */
export interface Approver {
  readonly name: string;
  readonly authenticator: SoftwareAuthenticator;
  readonly credentials: readonly Buffer[];
}

/** Returns a person with so many passkeys. */
export function newApprover(name: string, passkeys = 1): Approver {
  const authenticator = new SoftwareAuthenticator({
    rpId: RELYING_PARTY,
    origin: `https://${RELYING_PARTY}`,
  });
  const credentials = Array.from({ length: passkeys }, () => authenticator.hold());
  return { name: `spiffe://keyward.test/${name}`, authenticator, credentials };
}

/** Returns a rule as its file has it: two people for all that comes, nobody for what goes. */
export function ruleOf(
  approvers: readonly Approver[],
  changes: Partial<Record<AgentNeed, number>> = {},
): object {
  const two = Object.fromEntries(AGENT_NEEDS.map((need) => [need, 2]));
  return {
    relyingPartyId: RELYING_PARTY,
    approvers: approvers.map(({ name, authenticator, credentials }) => ({
      name,
      passkeys: credentials.map((credentialId) => ({
        credentialId: credentialId.toString('base64url'),
        publicKey: authenticator.publicKeyOf(credentialId).toString('base64url'),
        algorithm: 'ES256',
        deviceBound: true,
      })),
    })),
    approvals: { ...two, removals: 0, ...changes },
  };
}

/** Returns a request in its canonical form, by the method's name and the message. */
export function canonical(method: string, message: object): Buffer {
  const [service = '', own = ''] = method.split('/');
  const definition = packageDefinition[service] as ServiceDefinition;
  const { requestSerialize } = definition[own] as MethodDefinition<object, object>;
  return canonicalRequest(method, requestSerialize(message));
}

/** What is approved, and how: what differs from the usual. */
export interface Approval {
  readonly method: string;
  readonly message: object;
  /** By which passkeys, one for each signature. */
  readonly by: readonly { readonly approver: Approver; readonly credential?: Buffer }[];
  readonly requester?: string;
  readonly decision?: Decision;
  readonly expiresAt?: Date;
  readonly operationId?: OperationId;
  readonly tenant?: SealedContent;
  /** What was signed, where that is not what is shown. */
  readonly signed?: Partial<Parameters<typeof challengeOf>[0]>;
  readonly userVerified?: boolean;
}

/** An environment whose agents hold a rule. */
export class RuleRig implements AsyncDisposable {
  readonly environment: Environment;
  readonly environmentId: EnvironmentId;
  readonly sealKeyId: SealKeyId;
  /** Those that hold the rule. */
  readonly agents: HsmAgents;
  readonly #free: HsmAgents;
  readonly #rule: string;
  readonly #record: Awaited<ReturnType<typeof readEnvironment>>;

  private constructor(
    environment: Environment,
    record: Awaited<ReturnType<typeof readEnvironment>>,
    agents: { readonly ruled: HsmAgents; readonly free: HsmAgents; readonly rule: string },
  ) {
    this.#rule = agents.rule;
    this.environment = environment;
    this.environmentId = record.environmentId;
    const seal = record.tokenObjects.find(
      ({ role, state }) => role === 'seal' && state === 'CURRENT',
    );
    assert.ok(seal);
    this.sealKeyId = seal.objectId as AnyId as SealKeyId;
    this.agents = agents.ruled;
    this.#free = agents.free;
    this.#record = record;
  }

  static async start(from: object): Promise<RuleRig> {
    const rule = JSON.stringify(from);
    const environment = await newEnvironment();
    const store = await Store.open({
      url: environment.urls.service,
      poolSize: 1,
      waitMs: 300,
      release: RELEASE,
      onError() {},
    });
    const record = await readEnvironment(store);
    await store.close();
    const ruled = openAgents(withRule(environment, rule), record);
    const free = openAgents(environment.variables, record);
    await Promise.all([ruled.start(), free.start()]);
    return new RuleRig(environment, record, { ruled, free, rule });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([this.agents.stop(), this.#free.stop()]);
    await this.environment[Symbol.asyncDispose]();
  }

  /** Agents that hold another rule, not started. */
  openOthers(rule: string, mode?: number): HsmAgents {
    return openAgents(withRule(this.environment, rule, mode), this.#record);
  }

  /** What a command's agent gets that holds the rule: its settings, and what starts it. */
  get command() {
    const { tokenProfile, environmentId } = this.#record;
    const variables = withRule(this.environment, this.#rule);
    const settings = read(TOKEN_SETTINGS, variables);
    const names = settings.KEYWARD_HSM_ENVIRONMENT;
    return {
      settings: {
        environmentId,
        profile: tokenProfile as TokenProfile,
      },
      starter: childAgents(
        tokenSettings(settings),
        Object.fromEntries(names.map((name) => [name, variables[name] ?? ''])),
      ),
    };
  }

  /** Has agents without a rule seal what was there before it. */
  async sealed(kind: RecordKind, content: Buffer): Promise<SealedContent> {
    const { sealKeyId } = this;
    const request = { sealKeyId, kind, contents: [content] };
    const { seals } = await this.#free.call('sealRecords', request, soon());
    assert.ok(seals[0]);
    return { content, sealKeyId, seal: Buffer.from(seals[0]) };
  }

  /** Whether agents without a rule take it for sealed. */
  async isSealed(kind: RecordKind, content: Buffer, seal: Buffer): Promise<boolean> {
    const request = { sealKeyId: this.sealKeyId, kind, items: [{ content, seal }] };
    const { verified } = await this.#free.call('verifyRecords', request, soon());
    return verified[0] === 1;
  }

  /** A tenant that was there before the rule. */
  async tenant(name: string, changes: Partial<TenantState> = {}) {
    const state = tenantState(name, changes);
    return { state, sealed: await this.sealed(RECORD.tenant, encodeTenantState(state)) };
  }

  /** What people have signed. `tenant` is what is shown of the tenant. */
  async warrant(approval: Approval): Promise<Warrant> {
    const { method, message, by, requester = ANNA, decision = 'approve', signed } = approval;
    const { expiresAt = new Date(Date.now() + HOUR) } = approval;
    const { operationId = newId<OperationId>(), userVerified = true } = approval;
    const request = canonical(method, message);
    const requestDigest = createHash('sha256').update(request).digest();
    const { environmentId } = this;
    const facts = { environmentId, operationId, method, requestDigest, requester, expiresAt };
    const challenge = challengeOf({ ...facts, decision, ...signed });
    const assertions = by.map(({ approver, credential = approver.credentials[0] }) => {
      assert.ok(credential);
      const asked = { challenge, credentialId: credential, userVerified };
      return approver.authenticator.get(asked);
    });
    const tenant = approval.tenant ?? (await this.tenant('none')).sealed;
    return { operationId, method, request, requester, expiresAt, assertions, tenant };
  }

  /** Asks the agents with the rule. */
  async sealPolicy(request: Omit<RequestOf<'sealPolicyChange'>, 'sealKeyId'>): Promise<Buffer> {
    const { sealKeyId } = this;
    const all = { sealKeyId, ...request };
    return Buffer.from((await this.agents.call('sealPolicyChange', all, soon())).seal);
  }

  /** Asks the agents with the rule. */
  async sealRecord(request: Omit<RequestOf<'sealRecordChange'>, 'sealKeyId'>): Promise<Buffer> {
    const { sealKeyId } = this;
    const all = { sealKeyId, ...request };
    return Buffer.from((await this.agents.call('sealRecordChange', all, soon())).seal);
  }
}

/** Returns the settings under which agents hold that rule. */
export function withRule(
  environment: Environment,
  rule: string,
  mode = 0o600,
): Record<string, string> {
  const path = join(environment.directory, `rule-${newId()}.json`);
  writeFileSync(path, rule);
  chmodSync(path, mode);
  const names = `${environment.variables['KEYWARD_HSM_ENVIRONMENT']},KEYWARD_AGENT_RULE`;
  return {
    ...environment.variables,
    KEYWARD_HSM_ENVIRONMENT: names,
    KEYWARD_AGENT_RULE: path,
  };
}

/** Returns a tenant. */
export function tenantState(name: string, changes: Partial<TenantState> = {}): TenantState {
  return {
    tenantId: newId<TenantId>(),
    name,
    revision: 3n,
    state: 'ENABLED',
    dedicatedRootKey: false,
    createdAt: 1n,
    shredAt: null,
    shreddedAt: null,
    quotas: { callsPerSecond: null, keys: null, storedDataKeys: null },
    approvalRulesRevision: null,
    ...changes,
  };
}

/** Until when agents may take. */
export const soon = () => monotonicNow() + 120_000;
