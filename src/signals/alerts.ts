/**
 * Defines the one table of alerts: conditions that an operator must look into, or asked to hear of.
 *
 * - An alert is a line of the log with the member `alert`, written by {@link AlertSignals} alone,
 *   which hands it on to those that deliver and count alerts.
 * - It is about a subject: the tenant, key, replica or witness that it happens to. Alerts of the
 *   same id and subject are one that lasts.
 * - The id is stable across releases; messages are for people, and change.
 * - docs/alerts.md is written from this table, and test/documents/alerts.test.ts names the test
 *   that makes each alert happen.
 */

/** How much an alert matters, the most first. */
export const SEVERITIES = ['critical', 'warning', 'info'] as const;

/** Names how much an alert matters. */
export type Severity = (typeof SEVERITIES)[number];

/** What the table says of an alert. */
export interface AlertRow {
  /**
   * How soon a person should look: at once, on the next working day, or where they asked to hear of
   * it.
   */
  readonly severity: Severity;
  /** What the subject of such an alert is. */
  readonly subject: string;
  /** The line's message. */
  readonly message: string;
  /** What has happened, and what the service does about it; names the line's other members. */
  readonly meaning: string;
  /** What the operator does. */
  readonly remedy: string;
  /**
   * Whether the service finds out when the condition has ended; otherwise an alert ends once it was
   * not found again for an hour.
   */
  readonly clears: boolean;
  /** The line's level, where it does not follow from the severity. */
  readonly level?: 'fatal';
}

/** Lists every alert. */
export const ALERTS = {
  'stored-row-corrupt': {
    severity: 'critical',
    subject: 'the key version, or the request id',
    clears: false,
    message: 'a stored row failed verification',
    meaning:
      'A stored key version is not as the service wrote it, or is missing while a stored data ' +
      'key refers to it. It is not used: calls that need it fail with `STORED_ROW_CORRUPT`, and ' +
      'so do items of re-wrap jobs. `detail` or `resource` names it. Or what was kept of a ' +
      'request, to answer it by when it comes again, is not as the service wrote it: `detail` then ' +
      'has its id, and that request fails with `STORED_ROW_CORRUPT`.',
    remedy:
      'Find out who has written to the database. Restore the row from a backup ' +
      '(docs/rotation.md#when-a-job-is-partial).',
  },
  'key-state-corrupt': {
    severity: 'critical',
    subject: 'the key, by its UUID',
    clears: true,
    message: 'a key’s stored state failed verification',
    meaning:
      'The name, the state, the primary or the versions of a key are not as the service sealed ' +
      'them, or are older than what this replica has seen. The key is neither used nor changed: ' +
      'calls fail with `KEY_STATE_CORRUPT`. `detail` has the tenant’s and the key’s UUIDs.',
    remedy:
      'Find out who has written to the database. Put the rows back as the audit log has them ' +
      '(docs/rotation.md#a-key-whose-state-does-not-verify).',
  },
  'tenant-corrupt': {
    severity: 'critical',
    subject: 'the tenant, by its UUID',
    clears: true,
    message: 'what is stored of a tenant failed verification',
    meaning:
      'The name, the state, the times of shredding or the quotas of a tenant are not as the ' +
      'service sealed them, are older than what this replica has seen, or have gone. The tenant ' +
      'is neither used nor changed: calls fail with `TENANT_CORRUPT`. `detail` has its UUID.',
    remedy:
      'Find out who has written to the database. Put the row back as the audit log has it, with ' +
      'the seal of a backup.',
  },
  'token-key-corrupt': {
    severity: 'critical',
    subject: 'the token keys',
    clears: true,
    message: 'what is recorded of token keys failed verification',
    meaning:
      'The record of which tokens and token keys there are, and which are current, is not as the ' +
      'service sealed it, or is older than what this replica has seen. Nothing new comes under any ' +
      'root or seal key: what would fails with `TOKEN_KEYS_CORRUPT`. What is there can be used. ' +
      '`detail` says what does not match.',
    remedy:
      'Find out who has written to the database. Put the rows back as the audit log has them ' +
      '(docs/root-keys.md).',
  },
  'maintenance-corrupt': {
    severity: 'critical',
    subject: 'the maintenance switch',
    clears: true,
    message: 'the maintenance switch failed verification, and counts as paused',
    meaning:
      'Whether maintenance is paused is not as the service sealed it, or is older than what this ' +
      'replica has seen. Nothing is rotated, re-wrapped or destroyed automatically. `problem` says ' +
      'what does not match.',
    remedy:
      'Find out who has written to the database. Pause or resume maintenance, which seals the ' +
      'switch again (docs/rotation.md).',
  },
  'policy-corrupt': {
    severity: 'critical',
    subject: 'the tenant',
    clears: true,
    message: 'a tenant’s access policy failed verification',
    meaning:
      'The role bindings or roles of `tenant` are not as the service sealed them, or are older ' +
      'than what this replica has seen. None of them is applied: the tenant’s calls fail with ' +
      '`POLICY_CORRUPT`.',
    remedy:
      'Find out who has written to the database. Put the rows back as the audit log has them ' +
      '(docs/access.md#what-is-sealed).',
  },
  'approval-rules-corrupt': {
    severity: 'critical',
    subject: 'the tenant',
    clears: true,
    message: 'a tenant’s approval rules failed verification',
    meaning:
      'The approval rules of `tenant` are not as the service sealed them, or are older than what ' +
      'this replica has seen. Dangerous calls in the tenant fail with `APPROVAL_RULES_CORRUPT`, ' +
      'of `system` those in every tenant, since rules might have stopped them. For other calls ' +
      'those rules hold that the replica verified last; where it has verified none, they fail as ' +
      'well. `problem` says what does not match.',
    remedy:
      'Find out who has written to the database. Put the row of `approval_rules` back as it was, ' +
      'from a backup; the audit log has what it says (docs/people.md#what-is-sealed).',
  },
  'decryption-failures': {
    severity: 'warning',
    subject: 'the caller',
    clears: false,
    message: 'a caller fails to decrypt again and again',
    meaning:
      'On one replica, `count` ciphertexts that `caller` wanted opened within `seconds` did not ' +
      'open, 30 at least in a minute: contexts or ciphertexts are tried, or a client has wrong ' +
      'ones. `address` and `requestId` are of the last call.',
    remedy:
      'Look in the audit log for what the caller tried. Suspend a caller that you do not trust ' +
      '(docs/canaries.md#suspensions).',
  },
  'sensitive-denied': {
    severity: 'warning',
    subject: 'the caller and the method',
    clears: false,
    message: 'a caller asked for something dangerous that it may not do',
    meaning:
      '`caller` called `method`, which takes something away, changes who may do what, or concerns ' +
      'the protection of all, and was denied: `reason`, `resource`, `address` and `requestId`. It ' +
      'is reported once a minute for a caller and a method.',
    remedy:
      'Ask who is responsible for the caller. Suspend one that you do not trust ' +
      '(docs/canaries.md#suspensions).',
  },
  'quota-exhausted': {
    severity: 'warning',
    subject: 'the quota, and the tenant or caller that it is of',
    clears: false,
    message: 'a quota is used up, and calls are refused',
    meaning:
      'A tenant’s quota `quota` of `limit` is used up; or that of a `caller`, for calls that need ' +
      'no permission. Calls that would exceed it fail with `QUOTA_EXCEEDED`.',
    remedy:
      'Find out whether the tenant needs more, and raise its quota, or which of its callers does ' +
      'not stop (docs/quotas.md).',
  },
  'clock-off': {
    severity: 'warning',
    subject: 'the replica',
    clears: true,
    message: 'the clock of this machine differs from the database’s',
    meaning:
      'The clock of `replica` is ahead of the database’s by `aheadMs`, more than 5 seconds, or ' +
      'behind, if that is negative. Tokens, certificates and role bindings that expire count ' +
      'longer or shorter there; rotation and destruction go by the database’s clock.',
    remedy: 'Synchronize the clocks of both machines by NTP.',
  },
  'certificate-expiring': {
    severity: 'warning',
    subject: 'the setting that names the file, and the replica',
    clears: true,
    message: 'a certificate that this replica serves by is near its end',
    meaning:
      'A certificate in the file that `setting` names ends at `until`: in less than 14 days and a ' +
      'fifth of its time, or it has ended. `certificate` is its subject. Then clients do not ' +
      'connect, or certificates of clients are refused.',
    remedy:
      'Renew it; the service loads the file when it changes. Take certificates of CAs that were ' +
      'replaced out of the file (docs/deployment.md).',
  },
  'canary-opened': {
    severity: 'critical',
    subject: 'the canary, and who wanted it opened',
    clears: false,
    message: 'a canary was to be opened: someone has what no caller should ever open',
    meaning:
      '`caller` wanted the canary `canary` opened, which nothing but an intruder or a search ' +
      'through stolen data does. The call was answered as any that fails, so its caller does not ' +
      'know. `token`, `certificate`, `address`, `method` and `requestId` are what is known of it; ' +
      'with `suspends`, the caller is suspended in the tenant.',
    remedy:
      'Take the caller’s credentials from it, and find out from where it has what was laid ' +
      '(docs/canaries.md#when-one-is-opened).',
  },
  'canaries-corrupt': {
    severity: 'critical',
    subject: '`canaries`, as they are sealed together',
    clears: true,
    message: 'canaries and suspensions failed verification, and are not read',
    meaning:
      'The canaries and suspended callers are not as the service sealed them, or are older than ' +
      'what this replica has seen: someone has changed, added or deleted rows. What this replica ' +
      'verified last goes on counting; one that starts knows none, and serves. None can be added ' +
      'or deleted (`CANARIES_CORRUPT`). `problem` says what does not match.',
    remedy:
      'Find out who has written to the database, and restore the rows of `canaries`, ' +
      '`suspensions` and `canary_seals` from a backup (docs/canaries.md#what-is-sealed).',
  },
  'passkey-corrupt': {
    severity: 'critical',
    subject: 'the passkey, by its name',
    clears: true,
    message: 'a passkey failed verification, and is not used',
    meaning:
      'A passkey is not as the service sealed it, or is older than what this replica has seen: ' +
      'someone has changed its row. Nothing is decided with it, and calls that meet it fail with ' +
      '`PASSKEY_CORRUPT`. `detail` names it and says what does not match.',
    remedy:
      'Find out who has written to the database, and restore the row of `passkeys` from a backup ' +
      '(docs/people.md#passkeys).',
  },
  'passkey-counter': {
    severity: 'critical',
    subject: 'the passkey, by its name',
    clears: false,
    message: 'a device-bound passkey signed with a counter that has not grown',
    meaning:
      'A passkey that never leaves its authenticator counts its signatures. One came whose count ' +
      'was no higher than the last: there is a copy of the passkey, or its row was put back as ' +
      'it was. The signature was refused (`ASSERTION_NOT_ACCEPTED`).',
    remedy:
      'Ask the owner, whom `keyward passkeys` names, whether they signed just then. If they did, ' +
      'or cannot say: remove the passkey, and look in the audit log at what was decided with it ' +
      '(docs/people.md#what-is-wrong-with-a-signature).',
  },
  'changes-missing': {
    severity: 'critical',
    subject: 'the tenant, key or policy, by its UUID',
    clears: false,
    message: 'the feed of changes did not announce a change: rows of it are held back',
    meaning:
      'A replica that asked again for the revision of a tenant, key or policy found a newer one ' +
      'that was not announced to it: someone deletes or discards rows of the table `changes`. ' +
      'From the moment it was found the change holds; until then, up to 30 seconds, it did not. ' +
      '`kind`, `tenantId` and `subjectId` name it.',
    remedy:
      'Look for triggers on the table `changes`, and for who has written to the database. Until ' +
      'it is mended, a revocation takes up to 30 seconds on other replicas.',
  },
  'row-missing': {
    severity: 'critical',
    subject: 'the tenant or key, by its UUID',
    clears: false,
    message: 'a row is gone that nothing but a writer of the database can take away',
    meaning:
      'A tenant or key that a replica has used has no row any more. The service deletes no such ' +
      'row. `kind`, `tenantId` and `subjectId` name it.',
    remedy: 'Find out who has written to the database, and restore the row from a backup.',
  },
  'seal-corrupt': {
    severity: 'critical',
    subject: 'the record',
    clears: false,
    message: 'a sealed record failed verification and stays under a replaced seal key',
    meaning:
      'After a seal key was replaced, `resource` could not be sealed again, because its present ' +
      'seal does not verify. The replaced seal key cannot be destroyed.',
    remedy:
      'Put the rows back as the audit log has them; the service then seals them at its next ' +
      'attempt (docs/root-keys.md#replacing-a-root-key-or-the-seal-key).',
  },
  'token-object': {
    severity: 'critical',
    subject: 'the object',
    clears: false,
    message: 'a token object failed its check',
    meaning:
      'An object in the HSM token that the database records has an attribute too many, or is ' +
      'there twice. It is not used. `problem` names it.',
    remedy:
      'Find out who has used the token’s PIN. `keyward token status` shows the state of all ' +
      'objects; restore the token from its backup.',
  },
  'audit-log-contradicted': {
    severity: 'critical',
    subject: 'the audit log',
    clears: true,
    message:
      'the audit log contradicts a signed checkpoint, and nothing of it is signed; if an older ' +
      'database was restored, see docs/audit.md',
    meaning:
      'The audit log is shorter than a checkpoint that was signed before, or another log: an ' +
      'older database was restored, or someone has changed the log. No checkpoint is signed. ' +
      'Calls are served, and their entries are kept. `contradiction` says what differs, and ' +
      '`checkpoint`, where an agent knows it, is what was signed.',
    remedy:
      'If the database was restored on purpose, resume the log as a new generation; otherwise ' +
      'keep the database as it is for an investigation (docs/audit.md#running-it). The log ' +
      'reports `the audit log is signed again` when it is.',
  },
  'audit-entries-waiting': {
    severity: 'critical',
    subject: 'the audit log',
    clears: true,
    message: 'entries wait, and no replica takes them into the audit log',
    meaning:
      'The oldest entry on its way into the audit log has waited for half a minute or longer ' +
      '(`seconds`), and no replica takes it: none can read or write the log, or a process holds ' +
      'its lease and does nothing. Calls are served, and their entries are kept, but are in no ' +
      'export and under no checkpoint until then.',
    remedy:
      'Look in the logs of all replicas for `cannot extend the audit log`, and in Postgres for a ' +
      'session that holds a lock on `audit_state`. The log reports `entries become leaves of the ' +
      'audit log again` when they do.',
  },
  'audit-inbox': {
    severity: 'critical',
    subject: 'the replica that wrote the rows, by its UUID',
    clears: false,
    message: 'rows of the audit log’s inbox are not what was written',
    meaning:
      'Entries on their way into the audit log are missing, doubled or changed, or were put there ' +
      'by someone else. None of them is a leaf of a tenant’s; an entry in `system` says what was ' +
      'found, as the line does: `problem`, `replica`, `stream`, `from`, `to`. With `foundBy` ' +
      '`writer`, the replica that wrote them misses them; the entry follows.',
    remedy:
      'Find out who has written to the database. The calls of that replica at that time are in ' +
      'its own log (docs/audit.md).',
  },
  'audit-witness-contradicted': {
    severity: 'critical',
    subject: 'the witness',
    clears: true,
    message:
      'the audit log contradicts a checkpoint that a witness has cosigned; if an older database ' +
      'was restored, see docs/audit.md',
    meaning:
      'The witness `witness` has cosigned more than the log has, or another history: an older ' +
      'database was restored, another party signs with the log’s key, or the witness is wrong. ' +
      'The log is signed as before, without a cosignature of that witness.',
    remedy:
      'Compare the checkpoint that the witness has with your exports by `keyward audit verify ' +
      '--known` (docs/audit.md#running-it).',
  },
  'audit-witness-silent': {
    severity: 'warning',
    subject: 'the witness',
    clears: true,
    message: 'a witness does not cosign checkpoints of the audit log',
    meaning:
      'The witness `witness` was asked three times or more since it last cosigned, and did not ' +
      '(`failure`). The log is signed as before; what is new in it has no cosignature of that ' +
      'witness.',
    remedy:
      'Ask who runs the witness, and look at the network between (docs/audit.md#running-it). ' +
      '`keyward status` has the time of its last cosignature.',
  },
  'audit-generation-changed': {
    severity: 'warning',
    subject: 'the audit log',
    clears: false,
    message: 'the audit log goes on as a new generation',
    meaning:
      'An operator has resumed the log, and its first checkpoint as generation `generation` is ' +
      'signed. Leaves after the first `from` of the generation before are not in this one.',
    remedy:
      'Make sure that you know who has resumed it and why: the entry `keyward-server audit resume` ' +
      'says both. Keep the exports of the generation before (docs/audit.md#running-it).',
  },
  'rotation-overdue': {
    severity: 'warning',
    subject: 'the service',
    clears: true,
    message: 'rotations have been due for more than an hour',
    meaning:
      'The rotation of `keys` keys is due, of the oldest for `seconds` seconds, and no replica ' +
      'performs it: maintenance is paused (`isPaused`), or rotations fail. Callers are served, ' +
      'under the versions that are primary.',
    remedy:
      'Resume maintenance, or look for `a rotation failed and will be tried again` in the logs of ' +
      'all replicas (docs/rotation.md).',
  },
  'job-partial': {
    severity: 'warning',
    subject: 'the job',
    clears: false,
    message: 'a re-wrap job has ended, and could not bring everything under the new version',
    meaning:
      'Of the re-wrap job `job` some items failed, and stay under an older version, which cannot ' +
      'be destroyed alone.',
    remedy: 'Look at what failed (docs/rotation.md#when-a-job-is-partial).',
  },
  'caller-unusual': {
    severity: 'warning',
    subject: 'the caller, and in what their hour was unusual',
    clears: false,
    message: 'a caller did what is unusual for them',
    meaning:
      'With `KEYWARD_ANOMALIES` on: in the present hour `caller` was active at an hour of the day, ' +
      'decrypted in proportion to what they encrypted, used keys for the first time or failed, as in ' +
      'no hour of the four weeks before (`feature`: `hour`, `ratio`, `keys` or `failures`). ' +
      '`explanation` has the two numbers that were compared. Nothing is refused for it.',
    remedy:
      'Ask who is responsible for the caller whether they know why. If they do not, look at the ' +
      'caller’s entries of that hour in the audit log, and revoke the credential or its bindings ' +
      '(docs/anomalies.md).',
  },
  'database-away': {
    severity: 'critical',
    subject: 'the replica',
    clears: true,
    message: 'the database cannot be used',
    meaning:
      'This replica cannot read or write the database: `failure` says why. Calls that need it ' +
      'fail with `UNAVAILABLE`, and within `KEYWARD_MAX_STALENESS_MS` all others do.',
    remedy:
      'Look at the database, and at the network between. Where one replica alone reports ' +
      'it, look at that replica. Nothing is lost: what was answered is in the database.',
  },
  'hsm-unavailable': {
    severity: 'critical',
    subject: 'the replica',
    clears: true,
    message: 'no HSM agent is ready',
    meaning:
      'Nothing can be encrypted or decrypted by this replica: no agent has the token open. ' +
      '`failure` says what the last one ended by.',
    remedy:
      'Look at the HSM, and at the lines `cannot start an HSM agent`. After a PIN was refused, ' +
      'write the right one into the file of `KEYWARD_HSM_PIN_FILE`: none is tried until it changes. ' +
      'Where an agent host starts the agents, look at its log, and whether it runs.',
  },
  'replica-stale': {
    severity: 'critical',
    subject: 'the replica',
    clears: true,
    message: 'a replica does not hear of changes, and answers nothing from memory',
    meaning:
      'The feed of changes was not read for longer than `KEYWARD_MAX_STALENESS_MS`: the database ' +
      'is away, or slow, or this replica has too little of the processor. Calls fail with ' +
      '`REPLICA_STALE`.',
    remedy:
      'Look at the database, and at the load of this machine. `cannot read changes` in the log ' +
      'says why.',
  },
  'audit-unavailable': {
    severity: 'critical',
    subject: 'the replica',
    clears: true,
    message: 'calls cannot be recorded in the audit log, and are refused',
    meaning:
      'The database takes no entries from this replica: `failure` says why. What cannot be ' +
      'recorded is not done: calls fail with `AUDIT_UNAVAILABLE`.',
    remedy:
      'Look at the database: a full disk, a lock on `audit_inbox`, or rights that were taken away.',
  },
  'checkpoint-not-kept': {
    severity: 'warning',
    subject: 'the audit log',
    clears: true,
    message: 'the audit log’s last checkpoint is kept in the database alone',
    meaning:
      'In production, nothing outside the database remembers how far the audit log went: an older ' +
      'database that someone restores is not noticed by a replica that starts then.',
    remedy:
      'Set `KEYWARD_AUDIT_KEPT_CHECKPOINT` or `KEYWARD_AUDIT_TOKEN_CHECKPOINT_MINUTES` ' +
      '(docs/audit.md#running-it). The alert ends when a replica starts with it.',
  },
  'first-administrator-stands': {
    severity: 'warning',
    subject: 'the setting',
    clears: true,
    message: 'a setting still lets a first administrator create role bindings',
    meaning:
      'In production, `KEYWARD_FIRST_ADMINISTRATOR` is set: `name` may create role bindings ' +
      'without having one, past every policy.',
    remedy:
      'Unset it once others may create role bindings (docs/access.md). The alert ends when a ' +
      'replica starts without it.',
  },
  'attribute-waived': {
    severity: 'warning',
    subject: 'the kind of object, and the attribute',
    clears: false,
    message: 'the token cannot enforce an attribute, which is waived',
    meaning:
      'Objects of the kind `role` do not have `attribute` as it must be, and `KEYWARD_HSM_WAIVERS` ' +
      'lets them be used all the same.',
    remedy:
      'Weigh what the attribute keeps from happening, and move to a token that enforces it ' +
      '(docs/migration.md). Silence the alert for as long as you accept it.',
  },
  'pending-operation-corrupt': {
    severity: 'critical',
    subject: 'the pending operation, by its UUID',
    clears: true,
    message: 'what is stored of a pending operation failed verification',
    meaning:
      'A pending operation, its request or what its approvers are shown of it is not as the service ' +
      'sealed it, or is older than what this replica has seen. It is neither shown, nor decided on, ' +
      'nor performed. `detail` has its UUID and its tenant’s.',
    remedy:
      'Find out who has written to the database. Have what was wanted asked for again; the audit ' +
      'log has what was asked for and decided (docs/people.md).',
  },
  'glass-broken': {
    severity: 'critical',
    subject: 'the pending operation',
    clears: false,
    message: 'a rule for emergencies is to be applied',
    meaning:
      '`requester` has broken the glass for `operation`, because of `reason`: an approval rule for ' +
      'emergencies decides on it, in the place of the one that concerns `method` on `resource`. ' +
      'It still wants the approval of another person, within an hour.',
    remedy:
      'Ask the requester and the approver what the emergency is. Reject the operation ' +
      '(docs/people.md) if there is none.',
  },
  'operation-pending': {
    severity: 'info',
    subject: 'the pending operation',
    clears: false,
    message: 'an operation waits for approval',
    meaning:
      '`requester` has asked for `method` on `resource`, which `approvals` others have to approve ' +
      'by `expireTime`: `operation`.',
    remedy: 'Look at the operation, and approve or reject it (docs/people.md).',
  },
  'silences-corrupt': {
    severity: 'critical',
    subject: 'the list of silences',
    clears: true,
    message: 'the list of silenced alerts failed verification, and counts as empty',
    meaning:
      'Which alerts are not delivered is not as the service sealed it, or is older than what this ' +
      'replica has seen. Every alert is delivered. `problem` says what does not match.',
    remedy:
      'Find out who has written to the database. Set a silence, which seals the list again: only ' +
      'that one is in it then.',
  },
  'alert-undelivered': {
    severity: 'critical',
    subject: 'the receiver',
    clears: true,
    message: 'an alert could not be delivered to a receiver, and is given up',
    meaning:
      'The receiver has not taken an alert for as long as `giveUpAfterSeconds` allows: ' +
      '`undelivered` and `about` name the alert, `failure` says how the last attempt ended. Other ' +
      'receivers are told, and the log has it; this one does not hear of it any more.',
    remedy:
      'Look at the receiver, and try it by `keyward alerts test` (docs/operations.md). ' +
      '`keyward alerts list` shows what it has missed. The alert ends when the receiver takes one.',
  },
  'alerts-too-many': {
    severity: 'critical',
    subject: 'the kind of alert',
    clears: false,
    message: 'there are more alerts of one kind than are delivered each',
    meaning:
      'A hundred alerts of the kind `condition` were delivered within an hour. Further ones are ' +
      'recorded and logged, and not delivered.',
    remedy: '`keyward alerts list` shows all of them. Look for what they have in common.',
  },
  'test-alert': {
    severity: 'info',
    subject: 'the caller who tests',
    clears: false,
    message: 'a test: a receiver is told of an alert',
    meaning:
      'An administrator has tried a receiver by `keyward alerts test`. Nothing has happened.',
    remedy: 'Nothing.',
  },
  'log-lines-lost': {
    severity: 'warning',
    subject: 'the replica',
    clears: false,
    message: 'log lines could not be written, and are lost',
    meaning:
      'The disk under the log was full, or what reads the log did not read it: `lines` lines are ' +
      'missing before this one. Calls were served, and recorded in the audit log, meanwhile.',
    remedy: 'Give the log room, or look at what reads it.',
  },
  'rotation-done': {
    severity: 'info',
    subject: 'the key, and its new version',
    clears: false,
    message: 'a key was rotated',
    meaning: '`caller`, or the service itself, has rotated `key`; `version` encrypts from then on.',
    remedy: 'Nothing: for who asked to hear of it.',
  },
  'job-finished': {
    severity: 'info',
    subject: 'the job',
    clears: false,
    message: 'a re-wrap job has ended',
    meaning: 'Nothing is left to do of the re-wrap job `job`; its `state` says how it ended.',
    remedy:
      'For one that is `PARTIAL`, look at what failed (docs/rotation.md#when-a-job-is-partial).',
  },
  'destruction-coming': {
    severity: 'info',
    subject: 'the key, version or tenant, and how soon',
    clears: false,
    message: 'something will be destroyed soon',
    meaning:
      '`resource` is scheduled for destruction at `at`: a notice seven days before, and another one ' +
      'day before.',
    remedy: 'Restore it, if it is to be kept (docs/rotation.md#destruction).',
  },
  'binding-expiring': {
    severity: 'info',
    subject: 'the role binding, and how soon',
    clears: false,
    message: 'a role binding will expire soon',
    meaning:
      'The role binding `resource` expires at `at`: a notice seven days before, and another one day ' +
      'before.',
    remedy: 'Create another one, if its member is to keep the role (docs/access.md).',
  },
  'process-failed': {
    severity: 'critical',
    subject: 'the replica',
    clears: false,
    level: 'fatal',
    message: 'an unexpected failure; this process ends',
    meaning:
      'An exception that nothing caught ends this process, in order, with the exit status 70. ' +
      '`stack` has its messages and stacks.',
    remedy: 'Let the supervisor start the service again, and report the stack.',
  },
  'server-process-ended': {
    severity: 'warning',
    subject: 'the server process, by its number and its supervisor',
    clears: false,
    message: 'a server process has ended or hung, and is replaced',
    meaning:
      'One of several server processes (`KEYWARD_SERVERS`) ended without having been told to, or ' +
      'gave no sign of life for `KEYWARD_SERVER_TIMEOUT_MS` and was killed: `cause` is `crashed` ' +
      'or `hung`, `how` the signal or the exit code. Calls under way in it failed; another one ' +
      'is started in its place, and the others serve meanwhile.',
    remedy:
      'Read what the process logged last, by its `process`. One that hangs may have too little ' +
      'CPU; one that was killed by the system, too little memory (docs/sizing.md).',
  },
} as const satisfies Readonly<Record<string, AlertRow>>;

/** Names an alert. */
export type AlertId = keyof typeof ALERTS;

/** Raises alerts, and hears when the conditions that they are about have ended. */
export interface Alerts {
  /**
   * Writes an alert about `subject` into the log, and has it delivered; `fields` are the line's
   * other members, of which none is secret.
   */
  raise(id: AlertId, subject: string, fields: object): void;
  /** Ends the alert about `subject`, if there is one. Costs next to nothing if there is none. */
  clear(id: AlertId, subject: string): void;
}

/** Where alerts are written. */
export interface AlertLog {
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
  error(fields: object, message: string): void;
  fatal(fields: object, message: string): void;
}

/** Hears of each alert once its line is written. */
export type AlertListener = Alerts;

/** The levels of lines, by severity. */
const LEVELS = { critical: 'error', warning: 'warn', info: 'info' } as const;

/**
 * Writes alerts into the log, and hands them on to listeners.
 *
 * A listener decides itself whether it knows of an alert that has ended: another replica may have
 * raised it.
 */
export class AlertSignals implements Alerts {
  readonly #log: AlertLog;
  readonly #listeners: AlertListener[] = [];

  constructor(log: AlertLog) {
    this.#log = log;
  }

  /** Hands on to it all that is raised or ends from now on. */
  listen(listener: AlertListener): void {
    this.#listeners.push(listener);
  }

  raise(id: AlertId, subject: string, fields: object): void {
    const row: AlertRow = ALERTS[id];
    const { message, severity, level = LEVELS[severity] } = row;
    this.#log[level]({ alert: id, severity, subject, ...fields }, message);
    for (const listener of this.#listeners) listener.raise(id, subject, fields);
  }

  clear(id: AlertId, subject: string): void {
    for (const listener of this.#listeners) listener.clear(id, subject);
  }
}
