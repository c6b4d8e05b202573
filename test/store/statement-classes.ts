/**
 * Which statements of `src/store/` are hot, and which are not: all of them, each by its file and
 * function.
 *
 * Hot are those that calls, polls, ticks and pages send: none may cost more because there is more
 * of what it is not about. Beside each are the indexes by which it may read what there is much of.
 */

/** What there is much of; what is not here stays small, or is about one environment. */
export const LARGE: readonly string[] = [
  ...['access_policies', 'audit_log', 'audit_tiles', 'caller_hours', 'caller_keys', 'changes'],
  ...['data_keys', 'key_version_usage', 'key_versions', 'keys', 'request_ids', 'rewrap_jobs'],
  ...['role_bindings', 'rotations', 'tenant_counts', 'tenants'],
];

/** The hot ones, and their indexes; partitions of the log are called as the log is. */
export const HOT: Readonly<Record<string, string>> = {
  'access/caller-hours.ts addCallerReports': '',
  'access/caller-hours.ts findCallerHours': 'caller_hours_pkey',
  'access/caller-hours.ts removeOldCallerHours': 'caller_hours_by_hour caller_keys_by_use',
  'access/policies.ts findFormerPolicyKeys': 'access_policies_seal_key',
  'access/policies.ts findPolicy': 'access_policies_pkey role_bindings_pkey',
  'access/policies.ts readStalePolicies': 'access_policies_seal_key tenants_pkey',
  'approvals/pending.ts removeOldOperations': '',
  'approvals/rules.ts findApprovalRules': '',
  'audit/audit-entries.ts listTiles': 'audit_tiles_pkey',
  'audit/audit-entries.ts scan': 'audit_log_leaf_index_idx audit_log_pkey',
  'audit/audit-figures.ts findAuditFigures': '',
  'audit/audit-inbox.ts findArrivals': '',
  'audit/audit-inbox.ts findOldestRow': '',
  'audit/audit-inbox.ts findWriters': '',
  'audit/audit-inbox.ts listOldestRows': '',
  'audit/audit-inbox.ts makePartitions': '',
  'audit/audit-inbox.ts moveRows': '',
  'audit/audit-log.ts acquireLease': '',
  'audit/audit-log.ts findAuditState': '',
  'audit/audit-log.ts findLastCheckpoint': '',
  'audit/audit-log.ts findLastCosigned': '',
  'audit/audit-log.ts findTile': 'audit_tiles_pkey',
  'audit/audit-log.ts insertCheckpoint': '',
  'audit/audit-log.ts releaseLease': '',
  'audit/audit-log.ts withLease': '',
  'audit/audit-log.ts writeTree': '',
  'audit/audit.ts insertAuditEntry': '',
  'canaries/canaries.ts findCanaries': '',
  'changes.ts ChangeFeed': 'changes_by_xid',
  'changes.ts recordChange': '',
  'environment.ts read': 'tenants_name_key',
  'housekeeping.ts keepHouse': '',
  'hsm-token/replicas.ts listReplicas': '',
  'hsm-token/replicas.ts removeReplicas': '',
  'hsm-token/replicas.ts reportHeld': '',
  'hsm-token/token-key-set.ts findTokenKeySet': 'tenants_pkey',
  'hsm-token/token-objects.ts findCurrentSealKey': '',
  'hsm-token/token-objects.ts findDueTokenKeys': 'tenants_dedicated tenants_pkey',
  'hsm-token/token-objects.ts holdSealKey': '',
  'hsm-token/token-objects.ts requireCurrentKeys': 'tenants_pkey',
  'hsm-token/token-objects.ts selectTokenObjects': 'tenants_pkey',
  'keys/data-keys.ts deleteDataKey': 'data_keys_pkey',
  'keys/data-keys.ts findDataKey': 'data_keys_pkey',
  'keys/data-keys.ts insertDataKey': 'keys_key_id_key tenant_counts_pkey',
  'keys/data-keys.ts listDataKeys': 'data_keys_pkey',
  'keys/key-seals.ts changeStates': 'keys_key_id_key',
  'keys/key-seals.ts findFormerSealKeys': 'keys_state_seal_key',
  'keys/key-seals.ts readStaleStates': 'key_versions_pkey keys_state_seal_key tenants_pkey',
  'keys/key-states.ts findKeyState': 'key_versions_pkey keys_key_id_key',
  'keys/key-versions.ts findVersion': 'key_versions_pkey',
  'keys/key-versions.ts listVersions': 'key_versions_pkey',
  'keys/keys.ts findKey': 'key_versions_pkey keys_key_id_key',
  'keys/keys.ts findKeyNamed': 'key_versions_pkey keys_tenant_id_name_key',
  'keys/keys.ts insertKey': 'tenant_counts_pkey',
  'keys/keys.ts insertPrimaryVersion': 'keys_key_id_key',
  'keys/keys.ts listKeys': 'key_versions_pkey keys_tenant_id_name_key',
  'keys/keys.ts lockKey': 'keys_key_id_key',
  'keys/keys.ts updateKey': 'keys_key_id_key',
  'keys/usage.ts addReport': 'key_version_usage_pkey keys_key_id_key',
  'keys/usage.ts addUses': '',
  'keys/usage.ts findCompleteAt': '',
  'keys/usage.ts findTotalUsage': 'key_version_usage_pkey',
  'keys/usage.ts findUsage': 'key_version_usage_pkey',
  'keys/usage.ts removeSilentReplicas': '',
  'lifecycle/maintenance-switch.ts findMaintenance': '',
  'lifecycle/maintenance.ts findDue':
    'access_policies_seal_key key_versions_destroy keys_destroy keys_next_rotation ' +
    'keys_state_seal_key keys_usage_limit rewrap_jobs_of_key rewrap_jobs_running ' +
    'tenants_dedicated tenants_pkey ' +
    'tenants_seal_key tenants_shred',
  'lifecycle/maintenance.ts findRotationCause': 'keys_key_id_key tenants_pkey',
  'lifecycle/notices.ts findEndings':
    'key_versions_destroy keys_destroy keys_key_id_key role_bindings_expiring tenants_pkey ' +
    'tenants_shred',
  'lifecycle/rewrap-jobs.ts endJob': 'rewrap_jobs_of_key rewrap_jobs_pkey rewrap_jobs_running',
  'lifecycle/rewrap-jobs.ts findFinishedJobs': 'rewrap_jobs_running',
  'lifecycle/rewrap-jobs.ts findJob': 'keys_key_id_key rewrap_jobs_pkey',
  'lifecycle/rewrap-jobs.ts findLatestJob': 'keys_key_id_key rewrap_jobs_by_scope',
  'lifecycle/rewrap-jobs.ts insertJob': '',
  'lifecycle/rewrap-jobs.ts listFailures': '',
  'lifecycle/rewrap-jobs.ts listJobs':
    'keys_key_id_key keys_pkey keys_tenant_id_name_key keys_state_seal_key rewrap_jobs_pkey',
  'lifecycle/rewrap-jobs.ts newJobId': '',
  'lifecycle/rewrap-jobs.ts supersede': 'rewrap_jobs_of_key',
  'lifecycle/rewrap-ranges.ts leaseRange':
    'key_versions_pkey keys_key_id_key rewrap_jobs_running tenants_pkey',
  'lifecycle/rewrap-ranges.ts moveOn': '',
  'lifecycle/rewrap-ranges.ts planRange': 'rewrap_jobs_pkey rewrap_jobs_unplanned',
  'lifecycle/rewrap-ranges.ts recordStep': 'rewrap_jobs_pkey',
  'lifecycle/rewrap-ranges.ts releaseRange': '',
  'lifecycle/rotations.ts insertRotation': '',
  'lifecycle/rotations.ts listRotations': 'rewrap_jobs_pkey rotations_pkey',
  'lifecycle/stale-data-keys.ts nextKey':
    'data_keys_pkey keys_key_id_key keys_pkey keys_tenant_id_name_key tenants_pkey',
  'lifecycle/stale-data-keys.ts planWithin': 'data_keys_pkey keys_key_id_key',
  'lifecycle/stale-data-keys.ts readDataKeys': 'data_keys_pkey key_versions_pkey',
  'lifecycle/stale-data-keys.ts writeDataKeys': 'data_keys_pkey keys_key_id_key tenants_pkey',
  'lifecycle/stale-key-versions.ts planKeyVersions': 'key_versions_pkey tenants_pkey',
  'lifecycle/stale-key-versions.ts readKeyVersions':
    'key_versions_pkey keys_key_id_key tenants_pkey',
  'lifecycle/work-figures.ts findDueRotations': 'keys_next_rotation tenants_pkey',
  'lifecycle/work-figures.ts findWorkFigures':
    'key_versions_destroy keys_destroy keys_key_id_key rewrap_jobs_running',
  'request-ids.ts claimRequestId': '',
  'request-ids.ts findEffect': 'request_ids_pkey',
  'request-ids.ts keepEffect': 'request_ids_pkey',
  'revisions.ts findRevisions': 'access_policies_pkey keys_key_id_key tenants_pkey',
  'tenants/tenant-seals.ts findFormerTenantKeys': 'tenants_seal_key',
  'tenants/tenants.ts selectTenants': 'tenants_name_key tenants_pkey tenants_seal_key',
};

/** Hot ones that read more than a batch, and why they may. */
export const READS_MUCH: Readonly<Record<string, string>> = {
  'access/policies.ts findPolicy': 'all of one tenant’s bindings, once for each change',
  'housekeeping.ts keepHouse': 'the changes of an hour, every ten minutes',
  'lifecycle/stale-key-versions.ts planKeyVersions': 'as far as the next that is stale',
  'lifecycle/stale-key-versions.ts readKeyVersions': 'as far as the next that is stale',
};

/** Tables, and indexes of few of their rows, that a hot one may read to the end all the same. */
export const READS_WHOLE: Readonly<Record<string, string>> = {
  // Most of them are the tenant's.
  'access/policies.ts findPolicy': 'role_bindings',
  'housekeeping.ts keepHouse': 'changes',
  'lifecycle/maintenance.ts findDue':
    'key_versions_destroy keys_destroy rewrap_jobs_of_key rewrap_jobs_running ' +
    'tenants_dedicated tenants_shred',
  'lifecycle/stale-data-keys.ts nextKey': 'tenants',
  'lifecycle/stale-key-versions.ts planKeyVersions': 'tenants',
  'lifecycle/stale-key-versions.ts readKeyVersions': 'tenants',
  // For any values: as PostgreSQL 15 takes it, two thousand at once.
  'revisions.ts findRevisions': 'access_policies tenants',
};

/** The others, by why they are not hot, file and functions. */
export const OTHERS: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  'of a change that somebody asks for: rows by their primary key': {
    'access/policies.ts':
      'deleteRole deleteRoleBinding findRevisions insertRole insertRoleBinding ' +
      'listTenantsOfMember lockMember lockPolicy writePolicySeal',
    'keys/key-versions.ts': 'eraseCopies findHighestVersion setVersionState',
    'keys/usage.ts': 'removeReplica',
    'lifecycle/maintenance.ts': 'refuseBlocked',
    'tenants/tenant-seals.ts': 'createTenant write',
  },
  'writes a batch by its primary key': {
    'access/policies.ts': 'rewritePolicySeals',
    'audit/audit-inbox.ts': 'insertLeaves removeRows',
    'keys/key-seals.ts': 'writeSeals',
    'lifecycle/rewrap-ranges.ts': 'insertFailures',
    'lifecycle/stale-key-versions.ts': 'writeKeyVersions',
    'tenants/tenant-seals.ts': 'rewriteTenantSeals',
  },
  'reads, or erases, all that it is about': {
    'hsm-token/token-objects.ts': 'countUnderTokenKeys',
    'hsm-token/tokens.ts': 'countMoved',
    'keys/data-keys.ts': 'countDataKeys deleteAllDataKeys',
    'keys/key-versions.ts': 'countKept',
    'lifecycle/maintenance.ts': 'destroyDue',
    'tenants/shredding.ts': 'eraseTenant measureTenant',
  },
  'of a table that stays small: alerts, approvals, canaries, the token’s keys, replicas': {
    'alerts/alerts.ts':
      'endDelivery keepAlerts listAlerts lockUnplanned recordAlerts repeatAlerts ' +
      'resolveAlerts takeDeliveries writePlans',
    'alerts/silences.ts': 'findSilences lockSilences writeSilences',
    'approvals/passkeys.ts':
      'countPasskeys countPeopleWithPasskeys decisionTime findFormerPasskeyKeys ' +
      'findPasskey insertPasskey listPasskeys lockPasskey lockPasskeysOf ' +
      'readStalePasskeys rewritePasskeySeals updatePasskey',
    'approvals/pending.ts':
      'countOpen deleteDecisions findExpired findFormerOperationKeys findOperation ' +
      'findSame insertDecision insertOperation listDecisions listOperations listRecent ' +
      'lockOpenOperations lockOperation postponeApproved readStaleOperations ' +
      'rewriteOperationSeals ' +
      'takeApproved timeOf writeOperation',
    'approvals/rules.ts':
      'findFormerApprovalRulesKeys lockApprovalRules readStaleApprovalRules ' +
      'rewriteApprovalRulesSeals writeApprovalRules',
    'audit/audit-inbox.ts': 'saveWriters',
    'audit/audit-log.ts': 'addCosignatures listGenerations',
    'canaries/canaries.ts':
      'deleteCanary deleteSuspension insertCanary insertSuspension lockCanaries ' +
      'writeCanarySeal',
    'hsm-token/only-row-seal.ts': 'onlyRowSeal',
    'hsm-token/replicas.ts': 'countHolders isHeldByAll',
    'hsm-token/token-key-set.ts': 'lockTokenKeySet writeSeal',
    'hsm-token/token-objects.ts':
      'activateTokenObject holdSealKeys insertTokenObject isSealKeyInUse ' +
      'lockForActivation moveTokenObject',
    'hsm-token/tokens.ts': 'selectTokens',
    'lifecycle/maintenance-switch.ts': 'lockMaintenance writeMaintenance',
  },
  'of an operator’s command': {
    'audit/audit-owner.ts': 'beginGeneration dropPartitions listFullPartitions newestTimeIn',
    'environment.ts':
      'describe readEnvironment readEnvironmentAsOwner readModeAsOwner recordToken ' + 'write',
    'hsm-token/moved-key-versions.ts':
      'countCopies countNotUnder placeCopies readUncopied removeCopies selectUncopied ' +
      'writeCopies',
    'hsm-token/token-destruction.ts':
      'beginDestruction endDestruction record recordAbandoned refuseUsed',
    'hsm-token/token-migration.ts':
      'announce countLacking describeCurrentToken endNextObject findRootOwners ' +
      'holdStill lacksObjects lockMigration recordNextObject recordNextToken ' +
      'switchObjects switchTokens',
    'keys/key-seals.ts': 'countSealed readSealed readUnsealed writeVouchedSeals',
    'lifecycle/maintenance-switch.ts': 'writeFirstMaintenanceSeal',
    'tenants/tenant-seals.ts': 'countSealedTenants readUnsealedTenants writeFirstTenantSeals',
  },
  'sent by another one, which is hot': {
    'hsm-token/token-objects.ts': 'listTokenObjects',
    'hsm-token/tokens.ts': 'listTokens',
    'tenants/tenant-seals.ts': 'readStaleTenants',
    'tenants/tenants.ts': 'findTenant findTenantByName listTenants lockTenant queryOf',
  },
  'asks for the time': {
    'clock.ts': 'clockOffset',
    'keys/keys.ts': 'timeOfFirstRotation',
    'lifecycle/maintenance.ts': 'timeAfterDays',
    'tenants/tenant-seals.ts': 'readClock',
  },
};

/** Returns all that are classified. */
export function listClassified(): string[] {
  const others = Object.values(OTHERS).flatMap((files) =>
    Object.entries(files).flatMap(([file, names]) =>
      names.split(' ').map((name) => `${file} ${name}`),
    ),
  );
  return [...Object.keys(HOT), ...others].sort();
}
