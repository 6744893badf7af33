-- Collections, subjects, samples and the change log (design laws 1 to 3).
-- Ids compare bytewise (COLLATE "C"): their order is the same in every database and in Python.

CREATE TABLE facegraph.database_state (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    database_id uuid NOT NULL DEFAULT gen_random_uuid(),
    -- Counts the moves that led here. Whoever arrives with a higher epoch knows that the
    -- pointer found is older than the move that sent it here.
    epoch bigint NOT NULL DEFAULT 0,
    moved_to text,
    moved_epoch bigint,
    CHECK ((moved_to IS NULL) = (moved_epoch IS NULL)),
    CHECK (moved_epoch > epoch)
);
INSERT INTO facegraph.database_state DEFAULT VALUES;

CREATE TABLE facegraph.collections (
    id text COLLATE "C" PRIMARY KEY CHECK (length(id) BETWEEN 1 AND 128),
    name text,
    description text,
    metadata jsonb NOT NULL DEFAULT '{}',
    threshold double precision CHECK (threshold BETWEEN -1 AND 1),
    keep_crops boolean NOT NULL DEFAULT false,
    contract_id text NOT NULL,
    dimension integer NOT NULL CHECK (dimension > 0),
    contract jsonb NOT NULL,
    incarnation uuid NOT NULL DEFAULT gen_random_uuid(),
    version bigint NOT NULL DEFAULT 0,
    log_floor bigint NOT NULL DEFAULT 0 CHECK (log_floor <= version),
    subject_count bigint NOT NULL DEFAULT 0 CHECK (subject_count >= 0),
    sample_count bigint NOT NULL DEFAULT 0 CHECK (sample_count >= 0),
    stranger_count bigint NOT NULL DEFAULT 0,
    revision bigint NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
-- Every write updates this row: room on its page keeps the updates off the indexes.
ALTER TABLE facegraph.collections SET (fillfactor = 20);

CREATE TABLE facegraph.subjects (
    collection_id text COLLATE "C" NOT NULL
        REFERENCES facegraph.collections ON DELETE CASCADE,
    id text COLLATE "C" NOT NULL CHECK (length(id) BETWEEN 1 AND 128),
    name text,
    external_id text,
    metadata jsonb NOT NULL DEFAULT '{}',
    sample_count bigint NOT NULL DEFAULT 0 CHECK (sample_count >= 0),
    revision bigint NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (collection_id, id)
);

CREATE TABLE facegraph.samples (
    collection_id text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL CHECK (length(id) BETWEEN 1 AND 128),
    subject_id text COLLATE "C" NOT NULL,
    embedding bytea NOT NULL, -- float32, little endian, L2-normalised
    bbox double precision[] CHECK (cardinality(bbox) = 4), -- x1 y1 x2 y2, pixels
    detection_score double precision,
    crop bytea, -- 112 x 112 x 3, RGB
    metadata jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (collection_id, id),
    FOREIGN KEY (collection_id, subject_id)
        REFERENCES facegraph.subjects ON DELETE CASCADE
);
CREATE INDEX samples_of_subject ON facegraph.samples (collection_id, subject_id, id);
-- Embeddings do not compress, and loading a gallery reads them all: keep them in the row
-- (512 floats are 2 KiB, just what would move out by default).
ALTER TABLE facegraph.samples ALTER COLUMN embedding SET STORAGE EXTERNAL;
ALTER TABLE facegraph.samples SET (toast_tuple_target = 8160);

CREATE TABLE facegraph.changes (
    collection_id text COLLATE "C" NOT NULL
        REFERENCES facegraph.collections ON DELETE CASCADE,
    version bigint NOT NULL,
    ordinal integer NOT NULL,
    kind text NOT NULL CHECK (
        kind IN ('subject_upserted', 'subject_removed', 'sample_added', 'sample_removed')),
    subject_id text COLLATE "C" NOT NULL,
    sample_id text COLLATE "C",
    PRIMARY KEY (collection_id, version, ordinal)
);

-- What a request with an idempotency key was answered, so that its repetition is answered alike.
CREATE TABLE facegraph.idempotency (
    collection_id text COLLATE "C" NOT NULL
        REFERENCES facegraph.collections ON DELETE CASCADE,
    key text COLLATE "C" NOT NULL,
    fingerprint text NOT NULL,
    answer jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (collection_id, key)
);
CREATE INDEX idempotency_by_age ON facegraph.idempotency (collection_id, created_at);
