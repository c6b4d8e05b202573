/**
 * Rotations and re-wrap jobs: an operation for each method of RotationService.
 */
import { ofName, ofParent, ofSystem, operation, streamOperation } from '../calls/operation.ts';
import {
  formatJobName,
  formatKeyName,
  formatScope,
  formatTenantName,
  type JobName,
  type KeyName,
  type Scope,
  type TenantName,
} from '../names.ts';
import type { JobKind } from '../store/lifecycle/rewrap-jobs.ts';
import type { ListIn, Named, Repeatable } from './requests.ts';

/** A job to be started. */
export interface NewJob extends Repeatable {
  readonly scope: Scope;
  readonly kind: JobKind;
}

export const rotationOperations = {
  ListRotations: operation({
    permission: 'rotations.list',
    target: ofParent,
    resource: ({ parent }: ListIn<KeyName>) => formatKeyName(parent),
    handle: ({ rotation }, call, { parent, ...page }) => rotation.list(call, parent, page),
  }),
  CreateRewrapJob: operation({
    permission: 'rewrapJobs.create',
    target: ({ scope }) => (scope.tenant === undefined ? ofSystem() : ofName({ name: scope })),
    resource: ({ scope }: NewJob) => formatScope(scope),
    handle: ({ rewrap }, call, { scope, kind }) => rewrap.create(call, scope, kind),
  }),
  GetRewrapJob: operation({
    permission: 'rewrapJobs.get',
    target: ofName,
    resource: ({ name }: Named<JobName>) => formatJobName(name, name.job),
    handle: ({ rewrap }, call, { name }) => rewrap.get(call, name),
  }),
  ListRewrapJobs: operation({
    permission: 'rewrapJobs.list',
    target: ofParent,
    resource: ({ parent }: ListIn<TenantName>) => formatTenantName(parent),
    handle: ({ rewrap }, call, { parent, ...page }) => rewrap.list(call, parent, page),
  }),
  CancelRewrapJob: operation({
    permission: 'rewrapJobs.cancel',
    target: ofName,
    resource: ({ name }: Named<JobName> & Repeatable) => formatJobName(name, name.job),
    handle: ({ rewrap }, call, { name }) => rewrap.cancel(call, name),
  }),
  WatchRewrapJob: streamOperation({
    permission: 'rewrapJobs.get',
    target: ofName,
    resource: ({ name }: Named<JobName>) => formatJobName(name, name.job),
    stream: ({ rewrap }, call, { name }) => rewrap.watch(call, name),
  }),
};
