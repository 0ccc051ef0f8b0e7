-- The statements with which large_ledger.py fills an empty ledger. The parameters are those of `Size.values`.

CREATE TEMP TABLE n AS
    WITH RECURSIVE numbers(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM numbers WHERE i + 1 < :instances)
    SELECT i FROM numbers;

-- Studies. Those below :jobs have a job.
CREATE TEMP TABLE s AS
    SELECT i, json_extract(:ae_titles, printf('$[%d]', i % json_array_length(:ae_titles))) AS ae_title,
        'CT' || (i % :senders) AS calling, printf('10.0.0.%d', i % :senders + 1) AS peer, :begin + i * :study_us AS at,
        CASE WHEN i >= :jobs - :queued THEN 'queued' WHEN i % 100 = 50 THEN 'faulted' WHEN i % 200 = 75 THEN 'failed'
            WHEN i % 100 = 25 THEN 'cancelled' ELSE 'succeeded' END AS state
    FROM n WHERE i < :studies;

INSERT INTO instances (ae_title, calling_ae_title, peer_address, association_id, sop_class_uid, sop_instance_uid,
    study_instance_uid, series_instance_uid, transfer_syntax_uid, patient_id, issuer_of_patient_id, received_at,
    changed_at, storage_key, size_bytes, checksum, state, outcome, reason, source_job)
    SELECT ae_title, calling, peer, printf('%032x', s.i), '1.2.840.10008.5.1.4.1.1.2',
        printf('2.25.1%036d', n.i), printf('2.25.2%036d', s.i), printf('2.25.3%036d', s.i), '1.2.840.10008.1.2.1',
            'P' || (s.i / 2), '', at + n.i % :of_each * 100000, at + :span, printf('%032x', n.i), 526000, n.i,
            CASE WHEN s.i >= :jobs THEN 'pending' WHEN state IN ('succeeded', 'cancelled') THEN 'reclaimed'
                ELSE 'released' END,
            CASE WHEN s.i >= :jobs THEN '' WHEN state = 'succeeded' THEN 'submitted' WHEN state = 'cancelled'
                THEN 'cancelled' ELSE '' END,
            '', NULL
    FROM n JOIN s ON s.i = n.i / :of_each ORDER BY n.i;

INSERT INTO instances (ae_title, calling_ae_title, peer_address, association_id, sop_class_uid, sop_instance_uid,
    study_instance_uid, series_instance_uid, transfer_syntax_uid, patient_id, issuer_of_patient_id, received_at,
    changed_at, storage_key, size_bytes, checksum, state, outcome, reason, source_job)
    SELECT ae_title, calling, peer, printf('%032x', s.i), '1.2.840.10008.5.1.4.1.1.2', printf('2.25.4%036d', s.i),
        printf('2.25.5%036d', s.i / 10), printf('2.25.6%036d', s.i / 10), '1.2.840.10008.1.2.1', 'Q' || s.i, '',
            at, at + 1000, printf('4%031x', s.i), 526000, s.i, 'quarantined', '',
            'the data set has no AccessionNumber, by which ' || ae_title || ' groups', NULL
    FROM s WHERE i < :quarantined;

INSERT INTO instances (ae_title, calling_ae_title, peer_address, association_id, sop_class_uid, sop_instance_uid,
    study_instance_uid, series_instance_uid, transfer_syntax_uid, patient_id, issuer_of_patient_id, received_at,
    changed_at, storage_key, size_bytes, checksum, state, outcome, reason, source_job)
    SELECT ae_title, '', '', '', '1.2.840.10008.5.1.4.1.1.7', printf('2.25.7%036d', i), printf('2.25.2%036d', i),
        printf('2.25.8%036d', i), '1.2.840.10008.1.2.1', 'P' || (i / 2), '', at + :span, at + :span,
        printf('7%031x', i), 526000, i, 'reclaimed', 'submitted', '', i + 1
    FROM s WHERE i < :jobs AND state = 'succeeded';

INSERT INTO series (series_instance_uid, study_instance_uid, patient_id, accession_number, study_date, modality,
            study_description, series_description, seen_at)
    SELECT printf('2.25.3%036d', i), printf('2.25.2%036d', i), 'P' || (i / 2), 'A' || i, '20260105', 'CT',
            'Chest', 'Axial', at FROM s;

INSERT INTO jobs (job_id, name, ae_title, pipeline_id, priority, submitter, instance_count, metadata, state,
            created_at, changed_at, attempts, last_error, faulted_in, platform_finished, platform_job_id, started_at)
    SELECT printf('%08x%024x', i * 2654435761 % 4294967296, i), ae_title || '-' || i, ae_title, 'p' || (i % 3), 2,
            'platform', :of_each, '{}', state, at + 2000000, at + 2000000 + :span, state = 'faulted',
            CASE state WHEN 'faulted' THEN 'the platform refused the payload' WHEN 'failed' THEN 'exit status 1' ELSE ''
                END,
            CASE state WHEN 'faulted' THEN 'created' END, state IN ('succeeded', 'failed'),
            CASE WHEN state = 'queued' THEN '' ELSE 'run-' || i END,
            CASE WHEN state IN ('succeeded', 'failed') THEN at + 6000000 END
    FROM s WHERE i < :jobs ORDER BY i;

INSERT INTO job_instances (job_number, position, instance_id, uploaded)
    SELECT i / :of_each + 1, i % :of_each, i + 1, 1 FROM n WHERE i < :jobs * :of_each;

INSERT INTO events (at, event, ae_title, association_id, instance_id, job_id, detail)
    SELECT at, event, ae_title, association_id, instance_id, job_id, detail FROM (
        SELECT at + 1900000 AS at, 'association_closed' AS event, ae_title, printf('%032x', i) AS association_id,
                NULL AS instance_id, NULL AS job_id,
                json_object('how', 'released', 'statuses', json_object('SUCCESS', :of_each + (i < :quarantined)),
                    'calling_ae_title', calling, 'peer', peer) AS detail FROM s
            UNION ALL SELECT jobs.created_at + steps.key * 1000000, steps.value, ae_title, NULL, NULL, job_id,
            CASE steps.key WHEN 0 THEN json_object('name', name, 'pipeline', pipeline_id, 'instances', instance_count)
                ELSE '{}' END
            FROM jobs JOIN json_each(:events_of_a_job) AS steps
                WHERE steps.key <= CASE state WHEN 'queued' THEN 0 WHEN 'faulted' THEN 1 WHEN 'failed' THEN 4
                    WHEN 'cancelled' THEN 2 ELSE 5 END
            UNION ALL SELECT changed_at, 'job_' || state, ae_title, NULL, NULL, job_id,
            CASE last_error WHEN '' THEN '{}' ELSE json_object('error', last_error) END
            FROM jobs WHERE state IN ('faulted', 'failed', 'cancelled')
            UNION ALL SELECT changed_at, 'instance_quarantined', ae_title, association_id, instance_id, NULL,
                json_object('reason', reason) FROM instances WHERE state = 'quarantined') ORDER BY at;

INSERT INTO senders (calling_ae_title, ae_title, peer_address, first_at, last_at, associations, instances, refused)
    SELECT calling, ae_title, peer, MIN(at), MAX(at), COUNT(*), COUNT(*) * :of_each, 0 FROM s GROUP BY 1, 2, 3;

INSERT INTO rejections (hour, peer_address, calling_ae_title, ae_title, cause, reason, count, first_at, last_at)
        WITH RECURSIVE numbers(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM numbers WHERE i + 1 < :rejected_hours)
    SELECT (:now / 3600000000 - i) * 3600000000, printf('10.0.1.%d', i % 20), 'OLD' || (i % 20), 'LUNGS',
            'called-ae-title', 'called AE title not recognized', 12, (:now / 3600000000 - i) * 3600000000,
            (:now / 3600000000 - i) * 3600000000 FROM numbers;

INSERT INTO tallies (ae_title, what, count)
    SELECT ae_title, CASE WHEN source_job IS NULL THEN 'received' ELSE 'results' END, COUNT(*) FROM instances
        GROUP BY 1, 2;
