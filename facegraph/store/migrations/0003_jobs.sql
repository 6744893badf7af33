-- Work that outlives its request. A job is taken by one worker at a time, for as long as its lease lasts.
CREATE TABLE facegraph.jobs (
    id text COLLATE "C" PRIMARY KEY,
    kind text NOT NULL,
    state text NOT NULL DEFAULT 'queued' CHECK (state IN ('queued', 'running', 'done', 'failed')),
    params jsonb NOT NULL,
    progress real NOT NULL DEFAULT 0 CHECK (progress BETWEEN 0 AND 1),
    message text NOT NULL DEFAULT '',
    result jsonb,
    problem jsonb,
    attempts integer NOT NULL DEFAULT 0,
    worker text,                -- who holds the lease; another name for each time the job is taken
    leased_until timestamptz,
    not_before timestamptz NOT NULL DEFAULT now(),
    created_at timestamptz NOT NULL DEFAULT now(),
    started_at timestamptz,
    finished_at timestamptz
);
CREATE INDEX jobs_open ON facegraph.jobs (created_at) WHERE state IN ('queued', 'running');
CREATE INDEX jobs_finished ON facegraph.jobs (finished_at) WHERE finished_at IS NOT NULL;

-- What a job works on, in parts, until it is finished.
CREATE TABLE facegraph.job_inputs (
    job_id text COLLATE "C" REFERENCES facegraph.jobs ON DELETE CASCADE,
    part integer,
    data bytea NOT NULL,
    PRIMARY KEY (job_id, part)
);
ALTER TABLE facegraph.job_inputs ALTER COLUMN data SET STORAGE EXTERNAL;
