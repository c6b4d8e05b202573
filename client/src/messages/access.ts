/**
 * Requests and responses about who may do what: role bindings, roles, and questions about access.
 */

import type { Change, EncryptionContext, FilteredPage } from './shared.ts';

/** A role, given. */
export interface RoleBinding {
  /** `tenants/{tenant}/roleBindings/{role_binding}`. */
  readonly name: string;
  /**
   * To whom: a caller's name. Undefined for a group's, as both are for a kind of member newer than
   * this client.
   */
  readonly principal: string | undefined;
  /**
   * To whom: everybody whose token has the group, `{issuer}/{group}`. Undefined for a principal's.
   */
  readonly group: string | undefined;
  /** `roles/{role}` or `tenants/{tenant}/roles/{role}`. */
  readonly role: string;
  /**
   * For which keys: a key's last name part, or its beginning followed by `*`. Empty: for everything
   * of the tenant.
   */
  readonly keyPattern: string;
  /** Whether it holds in every tenant. */
  readonly allTenants: boolean;
  /** When it ends; undefined for never. */
  readonly expireTime: Date | undefined;
  /** What the encryption context of a call must be: all of them must hold. */
  readonly conditions: readonly ContextCondition[];
  /** Whether the member may both administer and use the same key by it. */
  readonly overrideSeparationOfDuties: boolean;
  readonly description: string;
  readonly createTime: Date;
  /** Who made it. */
  readonly creator: string;
}

/**
 * What one entry of an encryption context must be: one of the three; none of them is a requirement
 * newer than this client.
 */
export interface ContextCondition {
  /** The entry's key. */
  readonly contextKey: string;
  /** What its value must be. */
  readonly equals: string | undefined;
  /** Of which its value must be one. */
  readonly oneOf: readonly string[] | undefined;
  /**
   * The claim of the caller's token that its value must be: its name, or names one within the
   * other.
   */
  readonly claim: readonly string[] | undefined;
}

/** To whom a new binding gives its role: one of the two. */
export type NewMember =
  | { readonly principal: string; readonly group?: undefined }
  | { readonly principal?: undefined; readonly group: string };

/** What a new binding wants of one entry of the encryption context: one of the three. */
export type NewContextCondition = { readonly contextKey: string } & (
  | { readonly equals: string; readonly oneOf?: undefined; readonly claim?: undefined }
  | { readonly equals?: undefined; readonly oneOf: readonly string[]; readonly claim?: undefined }
  | { readonly equals?: undefined; readonly oneOf?: undefined; readonly claim: readonly string[] }
);

/** See {@link RoleBinding}, which says what the fields mean. */
export type NewRoleBinding = NewMember & {
  readonly role: string;
  /** Absent: for everything of the tenant. */
  readonly keyPattern?: string;
  /** Only in `tenants/system`. Absent: no. */
  readonly allTenants?: boolean;
  /** Absent: never. */
  readonly expireTime?: Date;
  /** Absent: none. */
  readonly conditions?: readonly NewContextCondition[];
  /**
   * Absent: no, and then a binding by which its member could both administer and use a key is
   * SEPARATION_OF_DUTIES.
   */
  readonly overrideSeparationOfDuties?: boolean;
  readonly description?: string;
};

/** A list of permissions, by a name. */
export interface Role {
  /** `roles/{role}`, which is predefined, or `tenants/{tenant}/roles/{role}`. */
  readonly name: string;
  /** `keys.create`, for instance. */
  readonly permissions: readonly string[];
  readonly description: string;
  /** Undefined for predefined roles. */
  readonly createTime: Date | undefined;
  /** Who made it; empty for predefined roles. */
  readonly creator: string;
}

/** Gives a role. */
export interface CreateRoleBindingRequest extends Change {
  /** `tenants/{tenant}`. */
  readonly parent: string;
  /** The last part of its name. Absent: one of the service's choosing. */
  readonly roleBindingId?: string;
  readonly roleBinding: NewRoleBinding;
}

/** See {@link RoleBinding}. */
export interface GetRoleBindingRequest {
  /** `tenants/{tenant}/roleBindings/{role_binding}`. */
  readonly name: string;
}

/** One page of a tenant's role bindings. */
export interface ListRoleBindingsRequest extends FilteredPage {
  /** `tenants/{tenant}`; those that hold in all tenants are listed in `tenants/system` alone. */
  readonly parent: string;
}

/** One page of a tenant's role bindings, ordered by name. */
export interface ListRoleBindingsResponse {
  readonly roleBindings: readonly RoleBinding[];
  /** Empty on the last page. */
  readonly nextPageToken: string;
}

/** Takes a role away. */
export interface DeleteRoleBindingRequest extends Change {
  /** `tenants/{tenant}/roleBindings/{role_binding}`. */
  readonly name: string;
}

/** Makes a role of the tenant's own. */
export interface CreateRoleRequest extends Change {
  /** `tenants/{tenant}`. */
  readonly parent: string;
  /** The last part of its name. */
  readonly roleId: string;
  readonly role: {
    /** `keys.create`, for instance. */
    readonly permissions: readonly string[];
    readonly description?: string;
  };
}

/** See {@link Role}. */
export interface GetRoleRequest {
  /** `tenants/{tenant}/roles/{role}`. */
  readonly name: string;
}

/** Asks for the roles that can be given in a tenant. */
export interface ListRolesRequest {
  /** `tenants/{tenant}`. */
  readonly parent: string;
}

/** All of them: the predefined ones, then the tenant's own, ordered by name. */
export interface ListRolesResponse {
  readonly roles: readonly Role[];
}

/** Deletes a role of the tenant's own; ROLE_IN_USE while a binding gives it. */
export interface DeleteRoleRequest extends Change {
  /** `tenants/{tenant}/roles/{role}`. */
  readonly name: string;
}

/** Asks which of some permissions the caller has. */
export interface TestPermissionsRequest {
  /** `tenants/{tenant}` or `tenants/{tenant}/keys/{key}`. */
  readonly resource: string;
  /** 1 to 100 of them. */
  readonly permissions: readonly string[];
  /** That a call would bring. */
  readonly encryptionContext?: EncryptionContext;
}

/** What TestPermissions returns. */
export interface TestPermissionsResponse {
  /** Those that the caller has, in the request's order. */
  readonly permissions: readonly string[];
}

/** Asks whether somebody would be allowed to do something by a role binding, and why. */
export interface ExplainAccessRequest {
  /** `tenants/{tenant}` or `tenants/{tenant}/keys/{key}`. */
  readonly resource: string;
  /** What is to be done; `data.decrypt`, for instance. */
  readonly permission: string;
  /** A caller's name. */
  readonly principal: string;
  /** The caller's groups, `{issuer}/{group}`. Absent: none. */
  readonly groups?: readonly string[];
  /** Claims of the caller's token, as far as conditions ask for them; up to 100. Absent: none. */
  readonly claims?: readonly ClaimValue[];
  /** Of the call. */
  readonly encryptionContext?: EncryptionContext;
}

/** A claim of a token, and what it says. */
export interface ClaimValue {
  /** Its name, or names one within the other. */
  readonly claim: readonly string[];
  /** The string there. */
  readonly value: string;
}

/** What ExplainAccess returns. */
export interface ExplainAccessResponse {
  /** Whether the call would be allowed. */
  readonly allowed: boolean;
  /** The binding that allows it; empty if none does. */
  readonly roleBinding: string;
  /** Every binding of the member that was looked at, and what it lacks. */
  readonly considered: readonly ConsideredBinding[];
}

/** A binding and what came of it. */
export interface ConsideredBinding {
  readonly roleBinding: string;
  readonly role: string;
  /** What keeps it from allowing the call; none if it allows it. */
  readonly obstacles: readonly AccessObstacle[];
}

/**
 * What keeps a binding from allowing a call: its role lacks the permission, it is for other keys,
 * it has ended, or the encryption context is another one or isn't there. `UNSPECIFIED` is an
 * obstacle newer than this client.
 */
export type AccessObstacle = 'UNSPECIFIED' | 'PERMISSION' | 'KEY' | 'EXPIRED' | 'CONTEXT';

/** Asks for {@link Caller}. */
export type GetCallerRequest = Readonly<Record<string, never>>;

/** Who makes a call. */
export interface Caller {
  /** As bindings and audit entries name it. */
  readonly name: string;
  /** The name of the token's issuer in the server's configuration; empty without a token. */
  readonly issuer: string;
  /** The token's groups, as bindings name them: `{issuer}/{group}`. */
  readonly groups: readonly string[];
  /** Whether the token is good for {@link tenants} only. */
  readonly limitedToTenants: boolean;
  /** `tenants/{tenant}`; says something only with `limitedToTenants`. */
  readonly tenants: readonly string[];
  /** When the token expires; undefined without a token. */
  readonly expireTime: Date | undefined;
  /**
   * Whether the caller is the first administrator, who may create role bindings without having one.
   */
  readonly firstAdministrator: boolean;
}
