/**
 * How the service is doing as the contract's message. Knows both and nothing else.
 */
import type { ServicePage } from '../../status/service-status.ts';
import type { SeenReplica } from '../../store/hsm-token/replicas.ts';
import type { WorkFigures } from '../../store/lifecycle/work-figures.ts';
import type { AuditLogSummary } from './generated/keyward/v1/AuditLogSummary.ts';
import type { MaintenanceSummary } from './generated/keyward/v1/MaintenanceSummary.ts';
import type { ReplicaReport } from './generated/keyward/v1/ReplicaReport.ts';
import type { ServiceStatus } from './generated/keyward/v1/ServiceStatus.ts';
import { optionalTime } from './times.ts';

export function serviceStatusMessage(page: ServicePage): ServiceStatus {
  const { environmentId, replica, release, problems, conditions, token, database } = page;
  return {
    ...{ environmentUid: environmentId, replica, release, problems: [...problems] },
    conditions: conditions.map(({ name, problem = '' }) => ({
      ...{ name, problem, holds: problem === '' },
    })),
    replicas: page.replicas.map(replicaReport),
    token: token === undefined ? null : { ...token, objections: [...token.objections] },
    database: { version: database.version, migration: database.migration },
    maintenance: maintenanceSummary(page.work),
    auditLog: auditLogSummary(page),
  };
}

function replicaReport(replica: SeenReplica): ReplicaReport {
  return {
    uid: replica.replicaId,
    name: replica.name ?? '',
    release: replica.release ?? '',
    startTime: optionalTime(replica.startedAt),
    seenTime: optionalTime(replica.seenAt),
    running: replica.isRunning,
    agents: replica.agents ?? 0,
    agentsReady: replica.agentsReady ?? 0,
    problems: [...(replica.problems ?? [])],
  };
}

function maintenanceSummary(work: WorkFigures): MaintenanceSummary {
  const sum = (value: 'running' | 'stale' | 'failed') =>
    work.jobs.reduce((total, job) => total + job[value], 0);
  return {
    paused: work.isPaused,
    runningJobs: sum('running'),
    staleRows: sum('stale'),
    failedRows: sum('failed'),
    dueRotations: work.rotationsDue,
    overdueSeconds: Math.floor(work.overdueSeconds),
    dueDestructions: work.destructionsDue,
  };
}

function auditLogSummary({ audit, witnesses }: ServicePage): AuditLogSummary {
  const { generation, treeSize, checkpoint, inboxRows, cosigned } = audit;
  return {
    ...{ generation, treeSize },
    checkpointTreeSize: checkpoint?.treeSize ?? 0,
    checkpointTime: optionalTime(checkpoint?.signedAt ?? null),
    waitingGroups: inboxRows,
    witnesses: witnesses.map(({ name }) => ({
      name,
      cosignedCheckpointTime: optionalTime(cosigned.get(name) ?? null),
    })),
  };
}
