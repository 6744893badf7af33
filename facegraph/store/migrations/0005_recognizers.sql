-- Networks trained to tell some people apart, and those in training.
CREATE TABLE facegraph.recognizers (
    id text COLLATE "C" PRIMARY KEY,
    -- What builds it, until the model is here: a job that goes without having made one, because it was
    -- deleted or failed long ago, takes its recognizer along.
    job_id text COLLATE "C" UNIQUE REFERENCES facegraph.jobs ON DELETE CASCADE CHECK (job_id = id),
    name text,
    contract_id text NOT NULL,
    collection_id text COLLATE "C", -- what it was built from, which may be gone by now
    options jsonb NOT NULL,
    course jsonb,
    labels text[],
    outcome jsonb,
    model_bytes bigint CHECK (model_bytes > 0),
    model_sha256 text,
    report_bytes bigint CHECK (report_bytes > 0),
    report_sha256 text,
    created_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    callback_url text,
    callback_state text CHECK (callback_state IN ('waiting', 'delivered', 'given_up')),
    callback_secret text, -- for as long as something is to be signed
    callback_not_before timestamptz,
    callback_attempts integer NOT NULL DEFAULT 0,
    callback_problem text,
    CHECK (num_nonnulls(
        labels, outcome, model_bytes, model_sha256, report_bytes, report_sha256, finished_at
    ) = CASE WHEN job_id IS NULL THEN 7 ELSE 0 END),
    CHECK ((callback_url IS NULL) = (callback_state IS NULL)),
    CHECK ((callback_secret IS NOT NULL) = (callback_state IS NOT DISTINCT FROM 'waiting')),
    CHECK ((callback_not_before IS NOT NULL) = (callback_state IS NOT DISTINCT FROM 'waiting'))
);
CREATE INDEX recognizers_to_tell ON facegraph.recognizers (callback_not_before)
    WHERE callback_state = 'waiting';
CREATE INDEX recognizers_by_label ON facegraph.recognizers USING gin (labels);

-- Model and report, in parts; they do not compress.
CREATE TABLE facegraph.recognizer_parts (
    recognizer_id text COLLATE "C" REFERENCES facegraph.recognizers ON DELETE CASCADE,
    kind text CHECK (kind IN ('model', 'report')),
    part integer,
    data bytea NOT NULL,
    PRIMARY KEY (recognizer_id, kind, part)
);
ALTER TABLE facegraph.recognizer_parts ALTER COLUMN data SET STORAGE EXTERNAL;
