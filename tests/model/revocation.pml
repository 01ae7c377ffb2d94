/* How a revocation, a serving lease and the switch of a restore play together; docs/model.md says what is left out.
 *
 * One key in one HSM; two coordinators, NODES nodes, one store whose transactions are atomic. Any process may rest
 * between any two of its steps for as long as it likes, so a pause needs no step of its own, and a crash of a
 * coordinator is a pause without end. A new leader is the other coordinator: one elected again after a crash can do
 * no more than that, since what it sent before stays in flight either way. Messages are late, overtaken or, if they
 * are late for ever, lost.
 *
 * Time is not counted. A lease, or the answer on its way that would start one, ends in the one moment that matters:
 * when a leader may conclude that it has (Lapse). What was granted after the leader had given up on the node
 * outlives that moment; lease_before and grant_before tell the two apart.
 *
 * Numbers of control messages are not counted either. A node compares one with the highest it has taken; all that
 * matters is the outcome, so a message in flight is marked when a later one is taken (Overtake). A node whose disk
 * is old has forgotten what it took, and the marks with it.
 *
 * Bounds (tests/model/run sets them): epochs, restores entered, old disks. A leader has one barrier at a time. */

#ifndef NODES
#define NODES 2
#endif
#ifndef SERVERS
#define SERVERS 1    /* nodes that get leases and are asked to sign; see docs/model.md why one is enough */
#endif
#ifndef EPOCHS
#define EPOCHS 2     /* the first leader, and each that follows */
#endif
#ifndef RESTORES
#define RESTORES 1   /* restore mode is entered at most so often */
#endif
#ifndef PURGES
#define PURGES 1     /* 0: the key can be deleted, but not purged */
#endif
#ifndef OLD_DISKS
#define OLD_DISKS 1  /* restarts of a node with the disk it had at the beginning */
#endif
#ifndef RESTARTS
#define RESTARTS 0   /* restarts with the disk as it was left */
#endif

#define COORDINATORS 2
#define PAGES 2      /* a data set is loaded in so many transactions */

/* States of the key, in the order in which it goes through them. */
#define LIVE 0
#define DELETED 1
#define PURGED 2

/* Modes of the HSM. LOADING is the acknowledged restore mode: its barrier is done. */
#define ACTIVE 0
#define ENTERING 1
#define LOADING 2

/* What a control message revokes, and what a leader's barrier is for. */
#define NOTHING 0
#define DELETE 1
#define PURGE 2
#define STOP 3

/* A node's part in a barrier. */
#define NO_PART 0
#define WAITING 1
#define TAKEN 2
#define MISSED 3
#define LAPSED 4

/* What a leader knows of a node. */
#define OUT 0
#define SYNCING 1
#define IN_STEP 2

/* --- the store ----------------------------------------------------------------------------------------------- */
byte store_epoch;
byte store_mode;
bit  store_data_set;        /* 0 before the restore, 1 after it */
byte store_key;             /* of the data set that serves */
bit  store_tombstone;       /* incarnation 0 was purged */
byte store_pages;           /* of data set 1 */
bit  restored_incarnation;  /* the key's in data set 1 */
byte restores;

/* --- a coordinator's memory ---------------------------------------------------------------------------------- */
byte epoch[COORDINATORS];   /* 0: has not led yet */
byte mode[COORDINATORS];
bit  data_set[COORDINATORS];
byte key[COORDINATORS];
byte barrier[COORDINATORS];
bit  loaded[COORDINATORS];  /* has seen the last page go in */

/* --- between coordinator c and node n: index AT(c, n) -------------------------------------------------------- */
#define AT(c, n) ((c) * NODES + (n))
#define PAIRS (COORDINATORS * NODES)
byte knows[PAIRS];
byte part[PAIRS];
bit  lease_before[PAIRS];   /* the node's lease was granted before its part was MISSED */
bit  grant_before[PAIRS];   /* the grant on its way was */
/* A revocation and a sync in flight, each in a slot of its own, so that either may overtake the other. */
byte control[PAIRS], control_epoch[PAIRS];
bit  control_data_set[PAIRS], control_overtaken[PAIRS];
byte sync_epoch[PAIRS], sync_key[PAIRS];  /* epoch 0: none */
bit  sync_data_set[PAIRS], sync_tombstone[PAIRS], sync_overtaken[PAIRS];
bit  sync_later[PAIRS];     /* of two in flight, the sync was sent later */

/* --- a node -------------------------------------------------------------------------------------------------- */
byte node_epoch[NODES], node_key[NODES];                                                /* durable */
bit  node_data_set[NODES], node_tombstone[NODES];                                       /* durable */
bit  lease[NODES], restarted[NODES];
bit  calling[NODES];        /* a call is inside the token */
byte grant_epoch[NODES];    /* a grant on its way; 0: none */
bit  grant_data_set[NODES];
byte call_epoch[NODES];     /* a sign request on its way; 0: none */
bit  call_data_set[NODES];
byte old_disks, restarts;

/* --- what callers were told ---------------------------------------------------------------------------------- */
byte acknowledged_key;      /* of the data set that serves */
bit  acknowledged_purge;    /* of incarnation 0, for ever */
bit  aborted;               /* the restore entered last was given up */

hidden byte each, peer;     /* scratch inside one step */

#define INCARNATION(set) ((set) == 0 -> 0 : restored_incarnation)

/* --- the guards: each with the mutant that lacks it ---------------------------------------------------------- */

/* Every store transaction has the leader's epoch as a guard. */
#ifdef MUTANT_UNFENCED_STORE
#define FENCED(c) (true)
#else
#define FENCED(c) (store_epoch == epoch[c])
#endif

/* A leader's term, counted from before the renewal was sent, ends before the store can give the next one. */
#ifdef MUTANT_STALE_GRANT
#define TERM_GOOD(c) (true)
#else
#define TERM_GOOD(c) (store_epoch == epoch[c])
#endif

#ifdef MUTANT_STALE_EPOCH
#define STALE(n, e) (false)
#define OTHER_DATA_SET(n, set) (false)
#else
#define STALE(n, e) ((e) < node_epoch[n])
#define OTHER_DATA_SET(n, set) ((set) != node_data_set[n])
#endif

#ifdef MUTANT_NO_SEQUENCE
#define OVERTAKEN(bit) (false)
#else
#define OVERTAKEN(bit) (bit)
#endif

/* A node answers after the calls inside its token have ended. */
#ifdef MUTANT_TAKEN_BEFORE_IDLE
#define IDLE(n) (true)
#else
#define IDLE(n) (!calling[n])
#endif

#ifdef MUTANT_EARLY_SWITCH
#define LOADED(c) (true)
#else
#define LOADED(c) (loaded[c])
#endif

#define DONE(c, n) (part[AT(c, n)] == TAKEN || part[AT(c, n)] == LAPSED)
#if NODES == 2
#define DONE_BY(c) (DONE(c, 0) + DONE(c, 1))
#else
#define DONE_BY(c) (DONE(c, 0) + DONE(c, 1) + DONE(c, 2))
#endif
#ifdef MUTANT_MAJORITY_BARRIER
#define BARRIER_HOLDS(c) (DONE_BY(c) * 2 > NODES)
#else
#define BARRIER_HOLDS(c) (DONE_BY(c) == NODES)
#endif

/* --- leases -------------------------------------------------------------------------------------------------- */

/* The result of a call during which the lease ended is not released. */
inline EndLease(n) {
  lease[n] = 0;
#ifndef MUTANT_RELEASE_UNCHECKED
  calling[n] = 0;
#endif
  lease_before[AT(0, n)] = 0;
  lease_before[AT(1, n)] = 0
}

inline ForgetGrant(n) {
  grant_epoch[n] = 0;
  grant_data_set[n] = 0;
  grant_before[AT(0, n)] = 0;
  grant_before[AT(1, n)] = 0
}

/* An answer to a question from before a stop starts no lease any more. */
inline VoidGrant(n) {
#ifdef MUTANT_LATE_LEASE
  skip
#else
  ForgetGrant(n)
#endif
}

inline Adopt(n, e) {
  if
  :: (e) > node_epoch[n] -> node_epoch[n] = e; EndLease(n)
  :: else
  fi
}

/* --- what a coordinator does with one node ------------------------------------------------------------------- */

/* The leader grants this node nothing more before it has brought it in step again. */
inline Withhold(c, n) {
#ifndef MUTANT_LEASE_DESPITE_MISS
  knows[AT(c, n)] = OUT;
#endif
  skip
}

/* What a later leader has granted is nothing this one could know of. */
inline Miss(c, n) {
  part[AT(c, n)] = MISSED;
  Withhold(c, n);
  lease_before[AT(c, n)] = (lease[n] && node_epoch[n] <= epoch[c]);
  grant_before[AT(c, n)] = (grant_epoch[n] && grant_epoch[n] <= epoch[c])
}

/* Every lease that this leader or one before it granted until the miss is over. Leases are counted from before the
 * question, so an answer still on its way starts none. */
inline Lapse(c, n) {
  part[AT(c, n)] = LAPSED;
  if
  :: lease_before[AT(c, n)] -> EndLease(n)
  :: else
  fi;
  if
  :: grant_before[AT(c, n)] ->
#ifdef MUTANT_LEASE_FROM_RECEIPT
    grant_before[AT(c, n)] = 0
#else
    ForgetGrant(n)
#endif
  :: else
  fi
}

inline BeginSync(c, n) {
  knows[AT(c, n)] = SYNCING;
  sync_epoch[AT(c, n)] = epoch[c];
  sync_key[AT(c, n)] = key[c];
  sync_data_set[AT(c, n)] = data_set[c];
  sync_tombstone[AT(c, n)] = store_tombstone && (data_set[c] == 1 || key[c] == PURGED);
  sync_overtaken[AT(c, n)] = 0;
  sync_later[AT(c, n)] = (control[AT(c, n)] != NOTHING && control_epoch[AT(c, n)] == epoch[c])
}

/* The question for a lease names the node's process; a new one is brought in step first. */
inline SeeRestart(c, n) {
#ifndef MUTANT_RESTART_UNNOTICED
  knows[AT(c, n)] = OUT;
#endif
  restarted[n] = 0
}

proctype Line(byte me, n) {
end:
  do
  :: d_step { n < SERVERS && part[AT(me, n)] == WAITING -> Miss(me, n); skip }
  /* A node that never has a lease. */
  :: d_step { n >= SERVERS && part[AT(me, n)] == WAITING -> part[AT(me, n)] = LAPSED }
  :: d_step { part[AT(me, n)] == MISSED -> Lapse(me, n); skip }
  /* Also when a sync before it was refused or is long in coming. */
  :: d_step { n < SERVERS && epoch[me] && mode[me] == ACTIVE && knows[AT(me, n)] == OUT -> BeginSync(me, n); skip }
  :: d_step { epoch[me] && restarted[n] && TERM_GOOD(me) -> SeeRestart(me, n); skip }
  /* Question and answer in one step: the node could as well have asked earlier, and would have the lease for less. */
  :: d_step {
      n < SERVERS && epoch[me] && !grant_epoch[n] && !restarted[n] && TERM_GOOD(me) && mode[me] == ACTIVE &&
          knows[AT(me, n)] == IN_STEP ->
        grant_epoch[n] = epoch[me];
        grant_data_set[n] = data_set[me]
    }
  /* Authorised on what this coordinator believes, whether it still leads or not. */
  :: d_step {
      n < SERVERS && epoch[me] && !call_epoch[n] && mode[me] == ACTIVE && key[me] == LIVE ->
        call_epoch[n] = epoch[me];
        call_data_set[n] = data_set[me]
    }
  od
}

/* --- what a coordinator does --------------------------------------------------------------------------------- */

inline EndBarrier(c) {
  barrier[c] = NOTHING;
  for (each : 0 .. NODES - 1) {
    part[AT(c, each)] = NO_PART;
    lease_before[AT(c, each)] = 0;
    grant_before[AT(c, each)] = 0
  }
}

inline BeginBarrier(c, what) {
  barrier[c] = what;
  for (each : 0 .. NODES - 1) {
    part[AT(c, each)] = WAITING;
    control[AT(c, each)] = what;
    control_epoch[AT(c, each)] = epoch[c];
    control_data_set[AT(c, each)] = data_set[c];
    control_overtaken[AT(c, each)] = 0;
    sync_later[AT(c, each)] = 0
  }
}

inline WithholdAll(c) {
  for (each : 0 .. NODES - 1) { knows[AT(c, each)] = OUT }
}

inline Elect(c) {
  store_epoch++;
  epoch[c] = store_epoch;
  mode[c] = store_mode;
  data_set[c] = store_data_set;
  key[c] = store_key;
  loaded[c] = (store_mode == LOADING && store_pages == PAGES);
  EndBarrier(c);
  WithholdAll(c)
}

inline Acknowledge(c) {
  if
  :: barrier[c] == DELETE && data_set[c] == store_data_set && acknowledged_key == LIVE -> acknowledged_key = DELETED
  :: barrier[c] == PURGE ->
    acknowledged_purge = 1;
    if
    :: data_set[c] == store_data_set -> acknowledged_key = PURGED
    :: else
    fi
  /* The restore's row says so, in a transaction like any other. */
  :: barrier[c] == STOP && FENCED(c) && store_mode == ENTERING ->
    store_mode = LOADING;
    mode[c] = LOADING
  :: else
  fi;
  EndBarrier(c)
}

inline Enter(c) {
  restores++;
  store_pages = 0;
  aborted = 0;
#ifdef MUTANT_OLD_INCARNATION
  restored_incarnation = 0;
#else
  restored_incarnation = store_tombstone;
#endif
#ifdef MUTANT_STOP_WITHOUT_BARRIER
  store_mode = LOADING;
  mode[c] = LOADING
#else
  store_mode = ENTERING;
  mode[c] = ENTERING;
  BeginBarrier(c, STOP)
#endif
}

inline Load(c) {
  store_pages++;
  loaded[c] = (store_pages == PAGES)
}

inline Switch(c) {
  assert(store_pages == PAGES);                            /* I8: all or nothing */
  assert(!aborted);                                        /* I8: what was given up never lands */
  assert(!store_tombstone || restored_incarnation == 1);   /* I3: back as a new incarnation only */
  WithholdAll(c);
  store_data_set = 1;
  store_mode = ACTIVE;
  store_key = LIVE;
  acknowledged_key = LIVE;
  mode[c] = ACTIVE;
  data_set[c] = 1;
  key[c] = LIVE;
  loaded[c] = 0
}

inline Abort(c) {
  WithholdAll(c);
  store_mode = ACTIVE;
  store_pages = 0;
  aborted = 1;
  mode[c] = ACTIVE;
  loaded[c] = 0
}

#define FREE(c) (epoch[c] && barrier[c] == NOTHING)
#define MAY_CHANGE(c) (FREE(c) && mode[c] == ACTIVE && FENCED(c))

proctype Coordinator(byte me) {
end:
  do
  :: d_step { store_epoch < EPOCHS && store_epoch % COORDINATORS == me -> Elect(me); skip }

  /* The store first, then the barrier. */
  :: d_step {
      MAY_CHANGE(me) && key[me] == LIVE ->
        store_key = DELETED;
        key[me] = DELETED;
        BeginBarrier(me, DELETE);
        skip
    }
  :: d_step {
      PURGES && MAY_CHANGE(me) && key[me] == DELETED && data_set[me] == 0 ->
        store_key = PURGED;
        store_tombstone = 1;
        key[me] = PURGED;
        BeginBarrier(me, PURGE);
        skip
    }
  :: d_step { MAY_CHANGE(me) && data_set[me] == 0 && restores < RESTORES -> Enter(me); skip }
  /* Asked once more, a leader that finds the change made goes through the barrier again. */
  :: d_step {
      FREE(me) && mode[me] == ACTIVE && key[me] == DELETED && acknowledged_key == LIVE -> BeginBarrier(me, DELETE);
      skip
    }
  :: d_step { FREE(me) && mode[me] == ACTIVE && key[me] == PURGED && !acknowledged_purge -> BeginBarrier(me, PURGE); skip }
  :: d_step { FREE(me) && mode[me] == ENTERING -> BeginBarrier(me, STOP); skip }
  :: d_step { barrier[me] != NOTHING && BARRIER_HOLDS(me) -> Acknowledge(me); skip }

  /* The rest of a restore. */
  :: d_step { mode[me] == LOADING && !loaded[me] && store_pages < PAGES && FENCED(me) -> Load(me); skip }
  :: d_step { mode[me] == LOADING && LOADED(me) && FENCED(me) -> Switch(me); skip }
  :: d_step { mode[me] != ACTIVE && barrier[me] == NOTHING && FENCED(me) -> Abort(me); skip }
  od
}

/* --- what a node does ---------------------------------------------------------------------------------------- */

inline ForgetControl(c, n) {
  control[AT(c, n)] = NOTHING;
  control_epoch[AT(c, n)] = 0;
  control_data_set[AT(c, n)] = 0;
  control_overtaken[AT(c, n)] = 0;
  sync_later[AT(c, n)] = 0
}

inline ForgetSync(c, n) {
  sync_epoch[AT(c, n)] = 0;
  sync_key[AT(c, n)] = LIVE;
  sync_data_set[AT(c, n)] = 0;
  sync_tombstone[AT(c, n)] = 0;
  sync_overtaken[AT(c, n)] = 0;
  sync_later[AT(c, n)] = 0
}

inline ControlTaken(c, n) {
  if
  :: sync_epoch[AT(c, n)] == control_epoch[AT(c, n)] && !sync_later[AT(c, n)] -> sync_overtaken[AT(c, n)] = 1
  :: else
  fi;
  if
  :: part[AT(c, n)] == WAITING && control_epoch[AT(c, n)] == epoch[c] -> part[AT(c, n)] = TAKEN
  :: else
  fi
}

inline TakeControl(c, n) {
  if
  :: STALE(n, control_epoch[AT(c, n)]) || OVERTAKEN(control_overtaken[AT(c, n)])
  :: else ->
    Adopt(n, control_epoch[AT(c, n)]);
    if
    :: control[AT(c, n)] == STOP ->
      EndLease(n);
      VoidGrant(n);
      ControlTaken(c, n)
    :: control[AT(c, n)] != STOP && !OTHER_DATA_SET(n, control_data_set[AT(c, n)]) ->
      if
      :: n >= SERVERS  /* holds the key for nobody */
      :: n < SERVERS && control[AT(c, n)] == PURGE -> node_key[n] = PURGED; node_tombstone[n] = 1
      :: n < SERVERS && control[AT(c, n)] == DELETE && node_key[n] == LIVE -> node_key[n] = DELETED
      :: else
      fi;
      ControlTaken(c, n)
    :: else  /* an error; the leader will miss it */
    fi
  fi;
  ForgetControl(c, n)
}

inline TakeSync(c, n) {
  if
  :: STALE(n, sync_epoch[AT(c, n)]) || OVERTAKEN(sync_overtaken[AT(c, n)]) ->
    if
    :: knows[AT(c, n)] == SYNCING && sync_epoch[AT(c, n)] == epoch[c] -> knows[AT(c, n)] = OUT
    :: else
    fi
  :: else ->
    Adopt(n, sync_epoch[AT(c, n)]);
    if
    :: node_data_set[n] != sync_data_set[AT(c, n)] ->
      EndLease(n);
      VoidGrant(n);
      node_data_set[n] = sync_data_set[AT(c, n)];
      node_key[n] = LIVE
    :: else
    fi;
#ifdef MUTANT_TOMBSTONE_IGNORED
    if
    :: sync_key[AT(c, n)] != PURGED -> node_key[n] = sync_key[AT(c, n)]
    :: else
    fi;
#else
    node_key[n] = sync_key[AT(c, n)];
    node_tombstone[n] = (node_tombstone[n] || sync_tombstone[AT(c, n)]);
#endif
    if
    :: control_epoch[AT(c, n)] == sync_epoch[AT(c, n)] && sync_later[AT(c, n)] -> control_overtaken[AT(c, n)] = 1
    :: else
    fi;
    /* It counts only if the node has missed nothing since it began. */
    if
#ifdef MUTANT_SYNC_DESPITE_MISS
    :: sync_epoch[AT(c, n)] == epoch[c] -> knows[AT(c, n)] = IN_STEP
#else
    :: knows[AT(c, n)] == SYNCING && sync_epoch[AT(c, n)] == epoch[c] -> knows[AT(c, n)] = IN_STEP
#endif
    :: else
    fi
  fi;
  ForgetSync(c, n)
}

inline TakeGrant(n) {
  if
  :: STALE(n, grant_epoch[n])
  :: else ->
    Adopt(n, grant_epoch[n]);
    if
    :: OTHER_DATA_SET(n, grant_data_set[n])
    :: else ->
      lease[n] = 1;
      lease_before[AT(0, n)] = grant_before[AT(0, n)];
      lease_before[AT(1, n)] = grant_before[AT(1, n)]
    fi
  fi;
  ForgetGrant(n)
}

inline BeginCall(n) {
  if
  :: STALE(n, call_epoch[n])
  :: else ->
    Adopt(n, call_epoch[n]);
    calling[n] = lease[n] && !OTHER_DATA_SET(n, call_data_set[n]) && node_key[n] == LIVE &&
                 !(node_tombstone[n] && INCARNATION(node_data_set[n]) == 0)
  fi;
  call_epoch[n] = 0;
  call_data_set[n] = 0
}

inline ReleaseResult(n) {
  calling[n] = 0;
  assert(!acknowledged_purge || INCARNATION(node_data_set[n]) == 1);  /* I3: a tombstone is final */
  assert(store_mode != LOADING);                                     /* I8: nothing in acknowledged restore mode */
  assert(node_data_set[n] == store_data_set);                        /* I8: one data set serves */
  assert(acknowledged_key == LIVE)                                   /* I2: a revocation is final */
}

inline Restart(n) {
  EndLease(n);
  calling[n] = 0;
  ForgetGrant(n);
  restarted[n] = 1
}

inline LoseDisk(n) {
  node_epoch[n] = 0;
  node_data_set[n] = 0;
  node_key[n] = LIVE;
  node_tombstone[n] = 0;
  for (peer : 0 .. COORDINATORS - 1) {
    control_overtaken[AT(peer, n)] = 0;
    sync_overtaken[AT(peer, n)] = 0
  }
}

proctype Node(byte me) {
end:
  do
  :: d_step { grant_epoch[me] -> TakeGrant(me); skip }
  :: d_step { call_epoch[me] && !calling[me] -> BeginCall(me); skip }
  :: d_step { calling[me] -> ReleaseResult(me); skip }
  /* A stop ends the lease first, so that no call is left to wait for. */
  :: d_step { control[AT(0, me)] && (IDLE(me) || control[AT(0, me)] == STOP) -> TakeControl(0, me); skip }
  :: d_step { control[AT(1, me)] && (IDLE(me) || control[AT(1, me)] == STOP) -> TakeControl(1, me); skip }
  :: d_step { sync_epoch[AT(0, me)] && IDLE(me) -> TakeSync(0, me); skip }
  :: d_step { sync_epoch[AT(1, me)] && IDLE(me) -> TakeSync(1, me); skip }
  :: d_step { restarts < RESTARTS -> restarts++; Restart(me); skip }
  :: d_step { me < SERVERS && old_disks < OLD_DISKS -> old_disks++; Restart(me); LoseDisk(me); skip }
  od
}

init {
  atomic {
    Elect(0);
    run Coordinator(0);
    run Coordinator(1);
    for (each : 0 .. NODES - 1) {
      run Line(0, each);
      run Line(1, each);
      run Node(each)
    }
  }
}
