/**
 * What an operation is to the wrapper round every call: one row, in words of the domain.
 *
 * Invariants:
 * - a row says what its caller needs, and on what, by the request alone;
 * - a row names its encryption contexts itself: what an audit entry says is never guessed from the
 *   names of fields, and has masks only where the row uses a key with them.
 *
 * Knows no face, no message and no operation.
 */
import type { Access, Rights } from '../access/access.ts';
import type { AccessAdministration } from '../access/administration.ts';
import type { Explanation } from '../access/explanation.ts';
import type { Permission } from '../access/permissions.ts';
import type { Target } from '../access/policy.ts';
import type { Alerting } from '../alerts/alerting.ts';
import type { Passkeys } from '../approvals/passkeys.ts';
import type { PendingOperations } from '../approvals/pending.ts';
import type { RuleChanges } from '../approvals/rule-changes.ts';
import type { AuditLog } from '../audit/log.ts';
import type { ContextMasks } from '../audit/masks.ts';
import type { Call, Reference } from '../call.ts';
import type { AgentNeed } from '../hsm/agent-rule.ts';
import type { Canary, Recogniser } from '../keyring/canaries/canaries.ts';
import type { Keyring } from '../keyring/keyring.ts';
import type { EncryptionContext } from '../keyring/keys/encryption-context.ts';
import { SYSTEM_TENANT, type TenantName } from '../names.ts';
import type { ServiceStatus } from '../status/service-status.ts';

/** In place of a permission: a caller who has proven who they are needs none. */
export const ANY_CALLER = Symbol('any caller');

/** What a permission is needed on: a tenant, or something of it. */
export interface CallTarget extends Target {
  /** The last part of the tenant's name. */
  readonly tenant: string;
}

/** What operations do their work by. */
export interface Services extends Keyring {
  readonly access: Access;
  readonly accessAdministration: AccessAdministration;
  readonly explanation: Explanation;
  readonly ruleChanges: RuleChanges;
  readonly passkeys: Passkeys;
  readonly auditLog: AuditLog;
  readonly serviceStatus: ServiceStatus;
  readonly alerting: Alerting;
  readonly pendingOperations: PendingOperations;
  readonly masks: Pick<ContextMasks, 'mask'>;
  readonly environmentId: string;
  /** Returns where people's browsers find the sign-off page; empty where they do not. */
  readonly signOffUrl: () => string;
}

/** A call that was let through, and what else its caller may do in the tenant. */
export interface AuthorizedCall extends Call {
  readonly rights: Rights;
}

/** The encryption contexts that a request brings, for its audit entry. */
export interface Contexts {
  readonly context: EncryptionContext;
  /** Of what is opened, where that is not what is sealed. */
  readonly source?: EncryptionContext;
  /** No key is used with them: the entry has their names alone, and no masks. */
  readonly isOnlyNamed?: boolean;
}

/** What every row has. */
export interface AnyOperation<Request> {
  /**
   * Set where it takes something away, changes who may do what, or what protects all: that it is
   * denied is an alert.
   */
  readonly isSensitive?: true;
  /** What the caller needs; a handler may ask for more. */
  readonly permission: Permission | typeof ANY_CALLER;
  /** Returns what the permission is needed on; not asked where none is. */
  target(request: NoInfer<Request>): CallTarget;
  /** Returns the resource that the call is about, for log, audit and errors. */
  resource(request: Request): string;
  /** Returns the encryption contexts that the call's entry is to name, masked. */
  contexts?(request: NoInfer<Request>): Contexts;
  /**
   * Returns the canaries among what the request wants opened, by the request alone: asked before
   * anything is decided about the call.
   */
  canaries?(known: Recogniser, request: NoInfer<Request>): readonly Canary[];
  /** Returns as how many calls it counts against the tenant's quota, where it is not one. */
  calls?(request: NoInfer<Request>): number;
}

/** An operation with one answer. */
export interface Operation<Request, Answer> extends AnyOperation<Request> {
  handle(services: Services, call: AuthorizedCall, request: NoInfer<Request>): Promise<Answer>;
  /**
   * Returns whether the request brings what stands for others' approval, and is refused if that
   * does not hold.
   */
  isVouchedFor?(request: NoInfer<Request>): boolean;
  /**
   * Returns what of the agents' rule concerns the request; undefined for nothing. Absent where
   * agents seal and make nothing for the call that grants power.
   */
  agentNeed?(request: NoInfer<Request>): AgentNeed | undefined;
  /**
   * Returns what the call would be answered, and changes nothing; throws what the call would. Given
   * where the operation can say so: what others are to approve is looked at by it before.
   */
  preview?(services: Services, call: AuthorizedCall, request: NoInfer<Request>): Promise<Answer>;
  /**
   * Called when the request comes again after it had its effect, where there is more to do than to
   * answer as then: with what the effect was kept by. Returns the answer, or undefined for that of
   * then.
   */
  again?(
    services: Services,
    call: AuthorizedCall,
    request: NoInfer<Request>,
    reference: Reference,
  ): Promise<Answer | undefined>;
}

/**
 * An operation that answers as often as there is something to say; it ends soon after the deadline.
 */
export interface StreamOperation<Request, Answer> extends AnyOperation<Request> {
  /** Throws PERMISSION_MISSING where the caller lacks what the operation needs besides. */
  requireMore?(rights: Rights, request: NoInfer<Request>): void;
  stream(
    services: Services,
    call: AuthorizedCall,
    request: NoInfer<Request>,
  ): AsyncIterable<Answer>;
}

/** Whether a request only asks what a call would do. */
export function onlyLooks(request: unknown): boolean {
  return (
    typeof request === 'object' &&
    request !== null &&
    'validateOnly' in request &&
    request.validateOnly === true
  );
}

/** Returns the row, with the types of its request and answer worked out. */
export const operation = <Request, Answer>(row: Operation<Request, Answer>) => row;
/** Returns the row, with the types of its request and answers worked out. */
export const streamOperation = <Request, Answer>(row: StreamOperation<Request, Answer>) => row;

/** Returns the target of what is about a thing of a tenant, or about the tenant. */
export const ofName = ({
  name,
}: {
  readonly name: TenantName & { readonly key?: string };
}): CallTarget => ({ tenant: name.tenant, key: name.key });
/** Returns the same for what names it as a parent. */
export const ofParent = ({
  parent,
}: {
  readonly parent: TenantName & { readonly key?: string };
}): CallTarget => ofName({ name: parent });
/** Returns the target of what is about the service as a whole. */
export const ofSystem = (): CallTarget => ({ tenant: SYSTEM_TENANT });
