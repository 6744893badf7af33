-- A mark for every version, so that two histories that both reached it can be told apart, and how a
-- collection is searched.

-- Step by step: a default that is drawn for each row would rewrite the table, which then looks empty
-- to whoever began to read before, as if there were no collections.
ALTER TABLE facegraph.collections
    ADD COLUMN stamp uuid,
    ADD COLUMN search_mode text NOT NULL DEFAULT 'auto'
        CHECK (search_mode IN ('auto', 'exact', 'approximate'));
-- Random for collections that are there already too: their past cannot be proved, so every index of
-- them is made anew once.
UPDATE facegraph.collections SET stamp = gen_random_uuid();
ALTER TABLE facegraph.collections
    ALTER COLUMN stamp SET DEFAULT gen_random_uuid(),
    ALTER COLUMN stamp SET NOT NULL;

-- The stamps of the versions that a collection has left, back to its log_floor.
CREATE TABLE facegraph.past_versions (
    collection_id text COLLATE "C" NOT NULL
        REFERENCES facegraph.collections ON DELETE CASCADE,
    version bigint NOT NULL,
    stamp uuid NOT NULL,
    PRIMARY KEY (collection_id, version)
);

-- A trigger, so that no statement can take a version without a stamp: neither one written by hand
-- nor one of an older facegraph that is still running.
CREATE FUNCTION facegraph.draw_stamp() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO facegraph.past_versions VALUES (OLD.id, OLD.version, OLD.stamp)
    ON CONFLICT (collection_id, version) DO UPDATE SET stamp = excluded.stamp;
    NEW.stamp := gen_random_uuid();
    RETURN NEW;
END
$$;
CREATE TRIGGER draw_stamp BEFORE UPDATE ON facegraph.collections
    FOR EACH ROW WHEN (NEW.version <> OLD.version) EXECUTE FUNCTION facegraph.draw_stamp();
